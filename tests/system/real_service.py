"""What tests of whole services share: servers as processes, and workers that stream beside the test."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diaspora_stream.api import Driver
from mochi.mofka.testing import BIN, Process, Service, configuration

WORKER = Path(__file__).with_name("stream_worker.py")


def spread(**group_manager: Any) -> dict[str, Any]:
    """Return the configuration of a service of several servers, the first of which has the topics."""
    settings = configuration(servers=2)
    settings["providers"][0]["config"] |= group_manager
    return settings


class Machine:
    """Starts servers, drivers and workers for a test, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[Process] = []
        self._drivers: list[Driver] = []

    def serve(
        self, settings: dict[str, Any] | None = None, *, address: str = "na+sm", name: str = "server"
    ) -> Service:
        return self.bedrock(json.dumps(settings or configuration()), address, "-c", "config.json", name=name)

    def bedrock(
        self, text: str, *arguments: str, name: str = "server", within: Sequence[str] = ()
    ) -> Service:
        """Start ``bedrock`` with a configuration in ``config.json``."""
        command = (str(BIN / "bedrock"), *arguments)
        return self.service(1, text, *command, name=name, within=within)

    def servers(self, count: int, text: str, *arguments: str, name: str = "service") -> Service:
        """Start ``bedrock -n``, with a configuration in ``config.json``."""
        command = (str(BIN / "bedrock"), "-n", str(count), *arguments, "-c", "config.json")
        return self.service(count, text, *command, name=name)

    def service(
        self,
        count: int,
        text: str,
        *command: str | Path,
        name: str = "service",
        within: Sequence[str] = (),
    ) -> Service:
        """Start a service of several servers by any command."""
        service = Service(self.directory / name, text, servers=count, command=command, within=within)
        self._processes.append(service)
        return service

    def again(self, service: Service, rank: int, *arguments: str) -> Service:
        """Start a server of a service again, alone."""
        size = str(len(service.addresses))
        text = (service.directory / "config.json").read_text()
        flags = ("--rank", str(rank), "--size", size, "-c", "config.json")
        return self.bedrock(text, *arguments, *flags, name=service.directory.name)

    def driver(self, server: Service, **options: Any) -> Driver:
        driver = Driver(backend="mofka", options={"group_file": str(server.group_file), **options})
        self._drivers.append(driver)
        return driver

    def start(self, *command: str | Path, directory: Path | None = None) -> Process:
        """Start any process, which is killed at the end."""
        process = Process(*command, directory=directory or self.directory)
        self._processes.append(process)
        return process

    def worker(self, server: Service, *arguments: object) -> Process:
        """Start a process of `stream_worker`."""
        worker = Process(
            sys.executable, WORKER, server.group_file, *map(str, arguments), directory=self.directory
        )
        self._processes.append(worker)
        return worker

    def kill_all(self) -> None:
        """Kill -9 of all processes."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        self.kill_all()
        for driver in self._drivers:
            driver.close()
