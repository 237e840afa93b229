"""REST handlers, their models and the route table. Handlers hold no logic."""

from console.api.app import build_app
from console.api.server import KEEP_ALIVE, is_answering, make_runner
from console.api.services import Certificates, Services

__all__ = ["KEEP_ALIVE", "Certificates", "Services", "build_app", "is_answering", "make_runner"]
