"""Running files: backends, sessions, and how long they take. Needs no torch."""

from featherweight.runtime.backend import BACKENDS, Backend, OnnxBackend, usable
from featherweight.runtime.sessions import Input, Session, session

__all__ = ["BACKENDS", "Backend", "Input", "OnnxBackend", "Session", "session", "usable"]
