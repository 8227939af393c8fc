"""Real services for tests, benchmarks and documents; for those who build on Mofka as well.

`Service` is a ``bedrock`` in processes of its own, ready when the constructor returns::

    with Service(tmp_path, configuration()) as service:
        driver = service.driver()
        ...
        service.kill()
        service.restart()

`LocalService` is one in a thread of this process, quicker to start, and `running` runs a bare engine in a thread.

`mochi.mofka.testing.suites` has the tests that every type of partition and every transport passes. It needs pytest and
hypothesis, which the rest does not.
"""

from mochi.mofka.testing.local import LocalService, running
from mochi.mofka.testing.processes import BIN, READY, Process
from mochi.mofka.testing.services import Service, configuration

__all__ = ["BIN", "READY", "LocalService", "Process", "Service", "configuration", "running"]
