"""A PostgreSQL connection pool for asyncio that keeps working when the database does not."""

from poolkeeper.config import PoolConfig
from poolkeeper.create import create_pool
from poolkeeper.exceptions import (
    ConnectionPoolError,
    ConnectionValidationError,
    DatabaseUnavailableError,
    LedgerUnavailableError,
    PoolClosedError,
    PoolConfigurationError,
    PoolDeadlockError,
    PoolExhaustedError,
    PoolInitializationError,
    PoolTimeoutError,
    PoolUsageError,
    TransactionAbortedError,
    TransactionAlreadyCommittedError,
    TransactionEndedError,
    TransactionOutcomeUnknownError,
    TransactionRolledBackError,
    TransactionTimeoutError,
)
from poolkeeper.manager import ConnectionPoolManager
from poolkeeper.observability.health import HealthReport
from poolkeeper.observability.statistics import PoolStatistics
from poolkeeper.outcomes import Outcome, TransactionOutcome, outcome_of
from poolkeeper.snapshot import PoolSnapshot

__version__ = "0.1.0"

__all__ = [
    "ConnectionPoolError",
    "ConnectionPoolManager",
    "ConnectionValidationError",
    "DatabaseUnavailableError",
    "HealthReport",
    "LedgerUnavailableError",
    "Outcome",
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
    "TransactionAbortedError",
    "TransactionAlreadyCommittedError",
    "TransactionEndedError",
    "TransactionOutcome",
    "TransactionOutcomeUnknownError",
    "TransactionRolledBackError",
    "TransactionTimeoutError",
    "__version__",
    "create_pool",
    "outcome_of",
]
