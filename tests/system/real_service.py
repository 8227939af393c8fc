"""What tests of whole services share: servers as processes, and workers that stream beside the test."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from diaspora_stream.api import Driver

BIN = Path(sys.executable).parent
WORKER = Path(__file__).with_name("stream_worker.py")
READY = re.compile(r"\[info\] Bedrock daemon now running at (\S+)")


def config(*, margo: dict[str, Any] | None = None, io_pool: str = "__primary__") -> dict[str, Any]:
    """Return the configuration of a service of one server."""
    return {
        "libraries": [f"lib{name}-bedrock-module.so" for name in ("flock", "yokan", "abt-io", "mofka")],
        "margo": margo or {},
        "providers": [
            {
                "name": "group_manager",
                "type": "flock",
                "provider_id": 1,
                "config": {"bootstrap": "self", "file": "mofka.json", "group": {"type": "static"}},
            },
            {
                "name": "master_database",
                "type": "yokan",
                "provider_id": 2,
                "tags": ["mofka:master"],
                "config": {"database": {"type": "map"}},
            },
            {
                "name": "io_controller",
                "type": "abt_io",
                "provider_id": 3,
                "config": {},
                "dependencies": {"pool": io_pool},
            },
        ],
    }


def spread(**group_manager: Any) -> dict[str, Any]:
    """Return the configuration of a service of several servers, the first of which has the topics."""
    settings = config()
    settings["providers"][0]["config"] |= {"bootstrap": "mpi", **group_manager}
    settings["providers"][1]["__if__"] = "$MPI_COMM_WORLD.rank == 0"
    return settings


class Process:
    """A process whose lines of output are kept as they come."""

    def __init__(self, *arguments: str | Path, directory: Path) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._popen = subprocess.Popen(
            [str(argument) for argument in arguments],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,
            text=True,
        )
        self.pid = self._popen.pid
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def expect(self, pattern: str | re.Pattern[str], timeout: float = 30, nth: int = 0) -> re.Match[str]:
        """Wait for a line that matches, after `nth` others that do; the process must not end before."""
        seen = 0
        skipped = 0

        def found() -> re.Match[str] | bool:
            nonlocal seen, skipped
            while seen < len(self.lines):
                if match := re.search(pattern, self.lines[seen]):
                    if skipped == nth:
                        return match
                    skipped += 1
                seen += 1
            return self._ended

        with self._news:
            match = self._news.wait_for(found, timeout)
        assert isinstance(match, re.Match), f"no line with {pattern!r} in:\n{self.output}"
        return match

    def tell(self, line: str) -> None:
        """Write a line to the process's standard input."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(line + "\n")
        self._popen.stdin.flush()

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def end(self, timeout: float = 30) -> int:
        """Wait for the end; return the exit code."""
        code = self._popen.wait(timeout)
        self._thread.join(timeout)
        return code

    def kill(self) -> None:
        """Kill -9; no more output comes after this."""
        self._popen.kill()
        self.end()


class Server(Process):
    """A bedrock process that is ready; `within` is a command that runs it."""

    def __init__(self, directory: Path, text: str, *arguments: str, within: Sequence[str] = ()) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(text)
        super().__init__(*within, BIN / "bedrock", *arguments, directory=directory)
        self.directory = directory
        self.group_file = directory / "mofka.json"
        self.address = self.expect(READY)[1]

    def memory(self) -> int:
        """Bytes of memory that the server holds, shared ones as well."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()


class Service(Process):
    """Several bedrock processes that are one service, and ready; of ``bedrock -n``, or of mpirun."""

    def __init__(self, directory: Path, text: str, *command: str, count: int) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(text)
        super().__init__(*command, directory=directory)
        self.directory = directory
        self.group_file = directory / "mofka.json"
        self.addresses: list[str] = []
        try:
            for number in range(count):
                self.addresses.append(self.expect(READY, nth=number)[1])
        except BaseException:
            self.kill()
            raise
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        self.pids = [int(pid) for pid in children]
        """Of the servers that were started with this command, by rank."""

    def members(self) -> list[dict[str, Any]]:
        """Return the members of the group file, by rank."""
        members: list[dict[str, Any]] = json.loads(self.group_file.read_text())["members"]
        return sorted(members, key=lambda member: member["rank"])

    def kill(self) -> None:
        for pid in self.pids if hasattr(self, "pids") else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.signal(signal.SIGTERM)
        try:
            self.end(10)
        except subprocess.TimeoutExpired:
            super().kill()


class Machine:
    """Starts servers, drivers and workers for a test, and ends them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[Process] = []
        self._drivers: list[Driver] = []

    def serve(
        self, settings: dict[str, Any] | None = None, *, address: str = "na+sm", name: str = "server"
    ) -> Server:
        return self.bedrock(json.dumps(settings or config()), address, "-c", "config.json", name=name)

    def bedrock(self, text: str, *arguments: str, name: str = "server", within: Sequence[str] = ()) -> Server:
        """Start ``bedrock`` with a configuration in ``config.json``."""
        server = Server(self.directory / name, text, *arguments, within=within)
        self._processes.append(server)
        return server

    def servers(self, count: int, text: str, *arguments: str, name: str = "service") -> Service:
        """Start ``bedrock -n``, with a configuration in ``config.json``."""
        command = [str(BIN / "bedrock"), "-n", str(count), *arguments, "-c", "config.json"]
        return self.service(count, text, *command, name=name)

    def service(self, count: int, text: str, *command: str, name: str = "service") -> Service:
        """Start a service of several servers by any command."""
        service = Service(self.directory / name, text, *command, count=count)
        self._processes.append(service)
        return service

    def again(self, service: Service, rank: int, *arguments: str) -> Server:
        """Start a server of a service again, alone."""
        size = str(len(service.addresses))
        text = (service.directory / "config.json").read_text()
        flags = ("--rank", str(rank), "--size", size, "-c", "config.json")
        return self.bedrock(text, *arguments, *flags, name=service.directory.name)

    def driver(self, server: Server | Service, **options: Any) -> Driver:
        driver = Driver(backend="mofka", options={"group_file": str(server.group_file), **options})
        self._drivers.append(driver)
        return driver

    def start(self, *command: str | Path, directory: Path | None = None) -> Process:
        """Start any process, which is killed at the end."""
        process = Process(*command, directory=directory or self.directory)
        self._processes.append(process)
        return process

    def worker(self, server: Server | Service, *arguments: object) -> Process:
        """Start a process of `stream_worker`."""
        worker = Process(
            sys.executable, WORKER, server.group_file, *map(str, arguments), directory=self.directory
        )
        self._processes.append(worker)
        return worker

    def run(
        self, server: Server | Service, command: str | list[str], **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the server's directory, by a shell if it is a text, to its end."""
        return subprocess.run(
            command,
            shell=isinstance(command, str),
            cwd=server.directory,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def kill_all(self) -> None:
        """Kill -9 of all processes."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        self.kill_all()
        for driver in self._drivers:
            driver.close()
