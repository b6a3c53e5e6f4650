"""A PostgreSQL connection pool for asyncio that keeps working when the database does not."""

from poolkeeper.config import PoolConfig
from poolkeeper.create import create_pool
from poolkeeper.exceptions import (
    ConnectionPoolError,
    ConnectionValidationError,
    DatabaseUnavailableError,
    PoolClosedError,
    PoolConfigurationError,
    PoolDeadlockError,
    PoolExhaustedError,
    PoolInitializationError,
    PoolTimeoutError,
    PoolUsageError,
)
from poolkeeper.manager import ConnectionPoolManager
from poolkeeper.observability.health import HealthReport
from poolkeeper.observability.statistics import PoolStatistics
from poolkeeper.snapshot import PoolSnapshot

__version__ = "0.1.0"

__all__ = [
    "ConnectionPoolError",
    "ConnectionPoolManager",
    "ConnectionValidationError",
    "DatabaseUnavailableError",
    "HealthReport",
    "PoolClosedError",
    "PoolConfig",
    "PoolConfigurationError",
    "PoolDeadlockError",
    "PoolExhaustedError",
    "PoolInitializationError",
    "PoolSnapshot",
    "PoolStatistics",
    "PoolTimeoutError",
    "PoolUsageError",
    "__version__",
    "create_pool",
]
