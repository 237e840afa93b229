"""The pages' templates: everything that comes from outside is escaped, every name must exist."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from console.web.static_files import StaticFiles

FOLDER: Final = Path(__file__).parent / "templates"


class Templates:
    """Renders pages and parts of pages.

    Args:
        static: Where the files lie that pages refer to.
    """

    def __init__(self, static: StaticFiles) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals["static"] = static.url

    def render(self, name: str, **values: object) -> str:
        """A template with its values."""
        return self._environment.get_template(name).render(**values)
