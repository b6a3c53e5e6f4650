"""The core keeps its promises whatever happens and in whatever order.

What is checked after every step stands in ``promises.py``, what can happen in ``machine.py``.
"""

from hypothesis import HealthCheck, settings

from tests.core.machine import PoolMachine

TestPoolState = PoolMachine.TestCase
TestPoolState.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
