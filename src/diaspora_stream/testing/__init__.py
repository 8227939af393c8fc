"""A suite of tests that every driver passes; for those who write one.

Inherit `DriverSuite` in a module of tests, and give it a driver::

    from diaspora_stream.testing import DriverSuite

    class TestMyDriver(DriverSuite):
        @pytest.fixture
        def driver(self):
            with Driver(backend="mine", options={...}) as driver:
                yield driver

Needs pytest, which the rest of the library does not.
"""

from diaspora_stream.testing.suite import DriverSuite

__all__ = ["DriverSuite"]
