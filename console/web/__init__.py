"""Pages, templates, static files: server-rendered, live by server-sent events."""

from console.web.pages import Pages

__all__ = ["Pages"]
