"""What tests against a real PostgreSQL need: servers and networks that can be broken, and a judge.

The pytest fixtures are in ``poolkeeper.testing.plugin``, which pytest loads by itself. Besides the
names below there are ``workloads`` and ``clients`` (work to
do during a fault), ``history`` and ``checker`` (what clients saw, and whether it can be true).
"""

from poolkeeper.testing.cluster import ReplicatedPostgres
from poolkeeper.testing.embedded import FaultyPostgres
from poolkeeper.testing.proxy import Direction, FaultProxy, Segment, SilentServer, Verdict
from poolkeeper.testing.schedule import Schedule

__all__ = [
    "Direction",
    "FaultProxy",
    "FaultyPostgres",
    "ReplicatedPostgres",
    "Schedule",
    "Segment",
    "SilentServer",
    "Verdict",
]
