"""A real server for the tests of the client."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from diaspora_stream.api import Driver, TopicHandle

LIBRARIES = [f"lib{name}-bedrock-module.so" for name in ("flock", "yokan", "abt-io", "mofka")]
CONFIG: dict[str, Any] = {
    "libraries": LIBRARIES,
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
            "dependencies": {"pool": "__primary__"},
        },
    ],
}


class Server:
    """A running `bedrock`."""

    def __init__(self, directory: Path, address: str) -> None:
        directory.mkdir(exist_ok=True)
        self.group_file = directory / "mofka.json"
        self.directory = directory
        config = directory / "config.json"
        config.write_text(json.dumps(CONFIG))
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("bedrock"), address, "-c", config],
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert any("now running" in line for line in self.process.stdout)

    def driver(self, **options: Any) -> Any:
        return Driver(backend="mofka", options={"group_file": str(self.group_file), **options})

    def topic(self, partitions: int = 1, **options: Any) -> TopicHandle:
        """A new topic, opened through a driver of its own with these options."""
        driver = self.driver(**options)
        name = f"topic_{uuid4().hex}"
        driver.create_topic(name, options={"num_partitions": partitions} if partitions else {})
        topic: TopicHandle = driver.open_topic(name)
        return topic

    def address(self) -> str:
        address: str = json.loads(self.group_file.read_text())["members"][0]["address"]
        return address

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
