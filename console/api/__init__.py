"""REST handlers, their models and the route table. Handlers hold no logic."""

from console.api.app import build_app
from console.api.server import make_runner
from console.api.services import Certificates, Services

__all__ = ["Certificates", "Services", "build_app", "make_runner"]
