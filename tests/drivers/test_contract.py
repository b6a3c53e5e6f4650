"""Every driver, in memory too, keeps the promises the pool relies on."""

from poolkeeper.testing.contracts import DriverContract


class TestDriver(DriverContract):
    pass
