"""The few files that pages refer to, served from memory.

Each has its content's hash in its address, so that a browser keeps it for good and an upgrade of the Console
is seen at once. From memory, because our TLS transport has no sendfile.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).parent / "static"
PREFIX: Final = "/static"

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file.

    Attributes:
        name: Of the file.
        body: What is in it.
        content_type: Of the body.
        url: Where it is served.
    """

    name: str
    body: bytes = field(repr=False)
    content_type: str
    url: str


class StaticFiles:
    """The files of a folder, read once.

    Args:
        folder: Where they lie; files of other kinds than pages can use, such as licences, are left out.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        files = [_read(path) for path in sorted(folder.iterdir()) if path.suffix in _TYPES]
        self._by_name: Mapping[str, StaticFile] = {file.name: file for file in files}
        self._by_url: Mapping[str, StaticFile] = {file.url: file for file in files}

    def url(self, name: str) -> str:
        """Where a file is served; KeyError for a name that isn't there, which is a template's bug."""
        return self._by_name[name].url

    async def serve(self, request: web.Request) -> web.Response:
        """`GET /static/<hash>/<name>`."""
        file = self._by_url.get(request.path)
        if file is None:
            raise web.HTTPNotFound
        return web.Response(
            body=file.body,
            content_type=file.content_type,
            charset="utf-8",
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )


def _read(path: Path) -> StaticFile:
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()[:16]
    return StaticFile(path.name, body, _TYPES[path.suffix], f"{PREFIX}/{digest}/{path.name}")
