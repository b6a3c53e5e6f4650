"""A pool in a web application: for Starlette, FastAPI and whatever else speaks ASGI.

Needs the extra ``asgi`` (Starlette) and nothing else; ``metrics_routes`` needs prometheus-client.
"""

try:
    import starlette  # noqa: F401 - for the message
except ImportError as missing:
    raise ImportError(
        "poolkeeper.asgi needs the package starlette, which is not installed. "
        "Suggestion: pip install 'poolkeeper[asgi]'"
    ) from missing

from poolkeeper.asgi.deadline import DeadlineMiddleware, ResponseCutError, set_deadline, time_left
from poolkeeper.asgi.failures import Failure, failure_of
from poolkeeper.asgi.life import lifespan
from poolkeeper.asgi.probes import health_routes, metrics_routes
from poolkeeper.asgi.problems import ProblemMiddleware, install

__all__ = [
    "DeadlineMiddleware",
    "Failure",
    "ProblemMiddleware",
    "ResponseCutError",
    "failure_of",
    "health_routes",
    "install",
    "lifespan",
    "metrics_routes",
    "set_deadline",
    "time_left",
]
