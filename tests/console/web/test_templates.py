import re

import jinja2
import pytest

from console.web.static_files import StaticFiles
from console.web.templates import FOLDER, Templates


def templates() -> Templates:
    return Templates(StaticFiles())


def test_what_comes_from_outside_is_escaped() -> None:
    html = templates().render(
        "refusal.html", code=400, reason="<script>x</script>", principal=None, version="", logout=""
    )
    assert "<script>x" not in html
    assert "&lt;script&gt;" in html


def test_a_name_that_is_missing_is_a_bug() -> None:
    with pytest.raises(jinja2.UndefinedError):
        templates().render("refusal.html", code=400)


def test_no_template_has_inline_script_or_style_or_another_host() -> None:
    for path in FOLDER.glob("*.html"):
        text = path.read_text()
        assert not re.search(
            r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", text
        ), path


def test_only_our_own_fragments_are_taken_as_they_are() -> None:
    safe = [
        line for path in FOLDER.glob("*.html") for line in path.read_text().splitlines() if "safe" in line
    ]
    assert all("parts." in line for line in safe)
    assert len(safe) == 2
