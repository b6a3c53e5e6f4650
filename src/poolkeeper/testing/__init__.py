"""What tests against a real PostgreSQL need: a server that can be broken, and pytest fixtures."""

from poolkeeper.testing.embedded import FaultyPostgres

__all__ = ["FaultyPostgres"]
