"""Several real servers whose partitions stand in their configurations, so that each can be started again as it was.

They hold no token, and the group file is the test's own.
"""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from diaspora_stream.api import Driver, TopicHandle
from diaspora_stream.partition_selector import DefaultPartitionSelector
from diaspora_stream.serializer import DefaultSerializer
from diaspora_stream.validator import DefaultValidator
from mochi.margo.client import Client
from mochi.mofka.registry import PartitionRecord, Registry
from mochi.mofka.testing import BIN, READY, Process
from mochi.yokan.handle import DatabaseHandle
from tests.client.client_server import LIBRARIES

MASTER_ID = 2
FIRST_ID = 10


class Cluster:
    """A topic with partitions on several servers, the first of which has the master database.

    Parameters
    ----------
    kind : str
        ``memory`` or ``default``.
    """

    def __init__(
        self,
        directory: Path,
        servers: int,
        *,
        partitions: int = 1,
        kind: str = "memory",
        scheme: str = "na+sm",
    ) -> None:
        self._directory = directory
        self._kind = kind
        self._scheme = scheme
        self._uuids = [[str(uuid4()) for _ in range(partitions)] for _ in range(servers)]
        self._processes: list[Process] = []
        self._drivers: list[Driver] = []
        self.addresses = [""] * servers
        self.group_file = directory / "group.json"
        for server in range(servers):
            self._processes.append(self._start(server))
        self._write_group_file()
        parts = (DefaultValidator(), DefaultPartitionSelector(), DefaultSerializer())
        registry = self._registry()
        registry.reserve("topic", [record for server in range(servers) for record in self._records(server)])
        registry.publish("topic", [part.to_metadata() for part in parts])

    def _registry(self) -> Registry:
        return Registry(DatabaseHandle(Client(timeout=10), self.addresses[0], MASTER_ID))

    def _records(self, server: int) -> list[PartitionRecord]:
        return [
            PartitionRecord(self.addresses[server], FIRST_ID + place, uuid)
            for place, uuid in enumerate(self._uuids[server])
        ]

    def _write_group_file(self) -> None:
        members = [{"address": address, "provider_id": 1} for address in self.addresses]
        self.group_file.write_text(json.dumps({"members": members, "metadata": {}}))

    def _providers(self, server: int) -> list[dict[str, Any]]:
        providers: list[dict[str, Any]] = [
            {"name": "io", "type": "abt_io", "provider_id": 3, "dependencies": {"pool": "__primary__"}}
        ]
        if not server:
            path = str(self._directory / "master")
            database = {"type": "rocksdb", "config": {"path": path, "create_if_missing": True}}
            providers.append(
                {
                    "name": "master",
                    "type": "yokan",
                    "provider_id": MASTER_ID,
                    "tags": ["mofka:master"],
                    "config": {"database": database},
                }
            )
        section = {"path": str(self._directory / "data")} if self._kind == "default" else {}
        providers += [
            {
                "name": f"partition_{place}",
                "type": "mofka",
                "provider_id": FIRST_ID + place,
                "config": {"topic": "topic", "type": self._kind, "uuid": uuid, "partition": section},
                "dependencies": {"io_controller": "io"},
            }
            for place, uuid in enumerate(self._uuids[server])
        ]
        return providers

    def _start(self, server: int) -> Process:
        config = self._directory / f"server-{server}.json"
        config.write_text(json.dumps({"libraries": LIBRARIES, "providers": self._providers(server)}))
        address = self.addresses[server] or {"tcp": "tcp://127.0.0.1"}.get(self._scheme, self._scheme)
        process = Process(BIN / "bedrock", address, "-c", config, directory=self._directory)
        self.addresses[server] = process.expect(READY)[1]
        return process

    def driver(self, **options: Any) -> Driver:
        driver = Driver(backend="mofka", options={"group_file": str(self.group_file), **options})
        self._drivers.append(driver)
        return driver

    def topic(self, **options: Any) -> TopicHandle:
        return self.driver(**options).open_topic("topic")

    def pid(self, server: int) -> int:
        return self._processes[server].pid

    def kill(self, server: int) -> None:
        self._processes[server].kill()

    def end(self, server: int) -> None:
        """Stop a server as an operator does, so that nothing of its partitions is left to replay."""
        self._processes[server].stop(60)

    def start_again(self, server: int, *, elsewhere: bool = False) -> None:
        """Start a killed server again, perhaps at another address, and note that where a client finds it."""
        if elsewhere:
            self.addresses[server] = ""
        self._processes[server] = self._start(server)
        if elsewhere:
            self._write_group_file()
            self._registry().update("topic", self._records(server))

    def close(self) -> None:
        for server in range(len(self._processes)):
            self.kill(server)
