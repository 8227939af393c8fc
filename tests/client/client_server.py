"""A real server for the tests of the client."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from diaspora_stream.api import Driver, TopicHandle
from mochi.mofka.testing import Service, configuration

CONFIG = configuration()
LIBRARIES = CONFIG["libraries"]


class Server(Service):
    """A running ``bedrock``."""

    def __init__(self, directory: Path, address: str) -> None:
        super().__init__(directory, CONFIG, address=address)

    def driver(self, **options: Any) -> Any:
        """A driver that the test closes, or leaves to the collector."""
        return Driver(backend="mofka", options={"group_file": str(self.group_file), **options})

    def topic(self, partitions: int = 1, **options: Any) -> TopicHandle:
        """A new topic, opened through a driver of its own with these options."""
        name = f"topic_{uuid4().hex}"
        with self.driver() as driver:
            driver.create_topic(name, options={"num_partitions": partitions} if partitions else {})
        topic: TopicHandle = self.driver(**options).open_topic(name)
        return topic
