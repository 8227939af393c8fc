"""A service in processes of its own."""

import json
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from diaspora_stream.api import Driver
from mochi.margo.client import Client
from mochi.mofka.testing.processes import BIN, READY, Process, children

LIBRARIES = [f"lib{name}-bedrock-module.so" for name in ("flock", "yokan", "abt-io", "mofka")]


def configuration(
    *, servers: int = 1, margo: Mapping[str, Any] | None = None, group_file: str | Path = "mofka.json"
) -> dict[str, Any]:
    """Return a configuration to start from: a group, a database in memory for the topics, and operations on files.

    Parameters
    ----------
    servers : int
        If more than one, they form a group as MPI's ranks do, and the first of them has the topics.
    margo : mapping, optional
        The section of that name.
    group_file : str or Path
        Where the group file is written.
    """
    bootstrap = "mpi" if servers > 1 else "self"
    master: dict[str, Any] = {
        "name": "master_database",
        "type": "yokan",
        "provider_id": 2,
        "tags": ["mofka:master"],
        "config": {"database": {"type": "map"}},
    }
    if servers > 1:
        master["__if__"] = "$MPI_COMM_WORLD.rank == 0"
    return {
        "libraries": list(LIBRARIES),
        "margo": dict(margo or {}),
        "providers": [
            {
                "name": "group_manager",
                "type": "flock",
                "provider_id": 1,
                "config": {"bootstrap": bootstrap, "file": str(group_file), "group": {"type": "static"}},
            },
            master,
            {
                "name": "io_controller",
                "type": "abt_io",
                "provider_id": 3,
                "config": {},
                "dependencies": {"pool": "__primary__"},
            },
        ],
    }


class Service(Process):
    """A service that is ready: one ``bedrock``, or several that one command has started.

    Parameters
    ----------
    directory : Path
        Where it runs, and has its configuration and its group file; made if there is none.
    config : mapping or str, optional
        What is written to ``config.json``; `configuration` by default.
    *arguments : str
        Of ``bedrock``, beside the configuration.
    address : str, optional
        Protocol or address of the servers.
    servers : int
        How many there are.
    command : sequence, optional
        A whole command instead of ``bedrock``, its address, its number of servers and its arguments.
    within : sequence of str
        A command that runs the command.
    stderr : file, optional
        See `Process`.

    Attributes
    ----------
    directory, group_file : Path
    addresses : list of str
        In the order in which they were ready.
    pids : list of int
        Of the servers; of several, by rank, if `command` supervises them.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, Any] | str | None = None,
        *arguments: str,
        address: str | None = "na+sm",
        servers: int = 1,
        command: Sequence[str | Path] | None = None,
        within: Sequence[str | Path] = (),
        stderr: IO[str] | None = None,
    ) -> None:
        directory.mkdir(exist_ok=True, parents=True)
        if config is None:
            config = configuration(servers=servers)
        text = config if isinstance(config, str) else json.dumps(config, indent=4)
        (directory / "config.json").write_text(text)
        if command is None:
            several = ["-n", str(servers)] if servers > 1 else []
            where = [] if address is None else [address]
            command = [BIN / "bedrock", *several, *where, "-c", "config.json", *arguments]
        self._command = [*within, *command]
        self._stderr = stderr
        self._servers = servers
        self._drivers: list[Driver] = []
        self.directory = directory
        self.group_file = directory / "mofka.json"
        self._start()

    def _start(self) -> None:
        super().__init__(*self._command, directory=self.directory, stderr=self._stderr)
        self.addresses: list[str] = []
        self.pids = [self.pid]
        try:
            for number in range(self._servers):
                self.addresses.append(self.expect(READY, nth=number)[1])
        except BaseException:
            self.kill()
            raise
        if self._servers > 1:
            self.pids = list(children(self.pid))

    @property
    def address(self) -> str:
        """Address of the server that was ready first."""
        return self.addresses[0]

    def members(self) -> list[dict[str, Any]]:
        """Return the members in the group file, by rank."""
        members: list[dict[str, Any]] = json.loads(self.group_file.read_text())["members"]
        return sorted(members, key=lambda member: member["rank"])

    def memory(self) -> int:
        """Return the bytes of memory that the first server holds, shared ones as well."""
        return int(Path(f"/proc/{self.pids[0]}/statm").read_text().split()[1]) * resource.getpagesize()

    @property
    def token(self) -> bytes:
        """What the group file has for those who may use the service; empty where anybody may."""
        group = json.loads(self.group_file.read_text())
        return bytes.fromhex(group.get("metadata", {}).get("__token__", ""))

    def client(self, timeout: float = 30) -> Client:
        """Return a client that has the token, for calls that no driver makes; who asks for it closes it."""
        client = Client(timeout=timeout)
        for member in self.members():
            if self.token:
                client.set_token(member["address"], self.token)
        return client

    def driver(self, **options: Any) -> Driver:
        """Return a driver of this service, which is closed with it."""
        driver = Driver(backend="mofka", options={"group_file": str(self.group_file), **options})
        self._drivers.append(driver)
        return driver

    def run(self, command: str | Sequence[str], **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run a command beside the group file to its end, by a shell if it is a text."""
        return subprocess.run(
            command,
            shell=isinstance(command, str),
            cwd=self.directory,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def kill(self) -> None:
        """Kill all servers at once, those that are frozen as well."""
        if self._servers > 1:
            for pid in self.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self.stop(10)
        super().kill()

    def restart(self) -> None:
        """Start the same command again, after killing what still runs; drivers find it if its address is fixed."""
        if self.is_running:
            self.kill()
        self._start()

    def close(self) -> None:
        """Close the drivers, and leave nothing of the servers."""
        self.kill()
        for driver in self._drivers:
            driver.close()
