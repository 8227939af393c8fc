"""Suites of tests that every type of partition and every transport passes; for those who write one.

Inherit one in a module of tests, and give it what it asks for::

    from mochi.mofka.testing.suites import PartitionSuite

    class TestMyPartition(PartitionSuite):
        @pytest.fixture
        def places(self, tmp_path_factory):
            ...

Needs pytest and hypothesis, which the rest of the library does not.
"""

from mochi.mofka.testing.suites.calls import (
    Event,
    acknowledge,
    append,
    batch_of,
    events_in,
    read,
    read_data,
)
from mochi.mofka.testing.suites.partitions import PartitionSuite, Place
from mochi.mofka.testing.suites.transports import TransportSuite

__all__ = [
    "Event",
    "PartitionSuite",
    "Place",
    "TransportSuite",
    "acknowledge",
    "append",
    "batch_of",
    "events_in",
    "read",
    "read_data",
]
