"""The unmodified Neon driver, in its newest version and in one many still use."""

import pytest

from tests.clients.node import DRIVERS

AREAS = ("types", "parameters", "errors", "transactions")


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("area", AREAS)
def test_the_driver_works_as_with_neon(node, server, area, driver):
    """Each file is a list of promises; see its tests."""
    assert node.run_tests(f"{area}.test.mjs", env=node.environment(server, driver=driver)) >= 10


@pytest.mark.parametrize("driver", DRIVERS)
def test_pool_query_works_and_sessions_are_refused_readably(node, server, driver):
    """Over HTTP the one, with 501 the other."""
    assert node.run_tests("sessions.test.mjs", env=node.environment(server, driver=driver)) == 4
