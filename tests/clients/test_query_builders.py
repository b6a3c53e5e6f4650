"""drizzle and kysely, unmodified, on the Neon driver."""

import pytest

from tests.clients.node import DRIVERS


@pytest.mark.parametrize("driver", DRIVERS)
def test_drizzle_works_as_with_neon(node, server, driver):
    """See the tests of its file."""
    assert node.run_tests("drizzle.test.mjs", env=node.environment(server, driver=driver)) == 7


def test_kysely_works_as_with_neon(node, server):
    """It needs version 1 of the driver or newer."""
    assert node.run_tests("kysely.test.mjs", env=node.environment(server)) == 6
