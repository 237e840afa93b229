from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from console.web.static_files import FOLDER, StaticFiles
from tests.console.api.world import World, client, running_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_world(tmp_path) as running:
        yield running


async def test_files_are_served_for_good(world: World) -> None:
    async with client(world) as http:
        for name, kind in [
            ("garrison.css", "text/css"),
            ("htmx.min.js", "text/javascript"),
            ("garrison.svg", "image/svg+xml"),
        ]:
            response = await http.get(StaticFiles().url(name))
            assert (response.status, response.content_type) == (200, kind)
            assert await response.read() == (FOLDER / name).read_bytes()
            assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/0000000000000000/garrison.css",
        "/static/x/../pages.py",
        "/static/x/%2e%2e%2fpages.py",
        "/static/x/htmx.LICENSE",
    ],
)
async def test_nothing_else_is(world: World, path: str) -> None:
    from yarl import URL

    async with client(world) as http:
        assert (await http.get(URL(world.url + path, encoded=True))).status == 404


def test_the_address_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("one")
    first = StaticFiles(tmp_path).url("a.css")
    (tmp_path / "a.css").write_text("two")
    assert StaticFiles(tmp_path).url("a.css") != first
    with pytest.raises(KeyError):
        StaticFiles(tmp_path).url("b.css")


def test_what_others_made_comes_with_its_licence() -> None:
    assert {path.name for path in FOLDER.glob("*.LICENSE")} == {"htmx.LICENSE", "htmx-ext-sse.LICENSE"}


def test_no_file_names_another_host() -> None:
    for name in ("garrison.css", "live.js"):
        assert "//" not in (FOLDER / name).read_text().replace("// Says", "")
