"""The ``files`` driver: a directory is the service."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from diaspora_stream.arguments import options_of, partition_count
from diaspora_stream.console.hints import hint
from diaspora_stream.errors import ConfigError, TopicNotFound
from diaspora_stream.generations import as_before
from diaspora_stream.json_value import encode
from mochi.mofka.client.lane import LaneOptions
from mochi.mofka.client.options import is_text, path_of, timeout_of
from mochi.mofka.files import storage
from mochi.mofka.files.consumer import Watching
from mochi.mofka.files.cursors import Cursors
from mochi.mofka.files.directory import Root
from mochi.mofka.files.embedded import EmbeddedDriver
from mochi.mofka.files.lane import Lane
from mochi.mofka.files.partition import EmbeddedPartition
from mochi.mofka.files.storage import FlushBehavior, Reader, Store
from mochi.mofka.files.topic import EmbeddedTopic
from mochi.mofka.files.watching import WATCHER
from mochi.mofka.files.writing import WRITING

log = logging.getLogger(__name__)

_OPTIONS = ("flush_behavior", "metadata", "root_path", "timeout_ms", "use_file_locking")
_TOPIC_OPTIONS = ("num_partitions", "partitions")


class FilesDriver(EmbeddedDriver):
    """Access to the topics of a directory, see `diaspora_stream.driver.Driver`.

    Any number of processes may use a directory. A partition has one process that writes it at a time, from the first
    event that it pushes there until its producers are closed; another is told who that is.

    Options
    -------
    root_path : str or os.PathLike
        The directory, ``./diaspora_data`` by default; made with its parents.
    flush_behavior : str
        When events, and cursors, are put on disk: ``buffered`` (the default) when a chunk is full or the last producer
        is closed, ``on_flush`` at a flush too, ``immediate`` before an event's future is done. What is not yet on disk
        survives the end of the process, however that comes, and not that of the machine.
    use_file_locking : bool
        Whether a file system without locks is refused; it is used with a warning otherwise, and a second writer is not
        kept out there. Elsewhere locks are used in any case.
    metadata : "text" or "value"
        Whether ``event.metadata`` is JSON text, as for the driver ``mofka``.
    timeout_ms : int or float
        Milliseconds that blocking calls take at most, 30000 by default.
    """

    def _open(self, options: Any) -> None:
        options = options_of(options)
        for key in options:
            if key not in _OPTIONS:
                log.warning("options.%s has no effect on the files driver%s", key, hint(key, _OPTIONS))
        locking = options.get("use_file_locking", False)
        if not isinstance(locking, bool):
            raise ConfigError("options.use_file_locking", f"must be true or false, found {locking!r}")
        flush = options.get("flush_behavior", FlushBehavior.BUFFERED.value)
        try:
            self._flush = FlushBehavior(flush)
        except ValueError:
            allowed = ", ".join(repr(each.value) for each in FlushBehavior)
            raise ConfigError(
                "options.flush_behavior", f"must be one of {allowed}, found {flush!r}"
            ) from None
        self._start(timeout_of(options))
        path = path_of("options.root_path", options.get("root_path", "./diaspora_data"))
        self._root = Root(os.path.abspath(path))
        metadata_text = is_text(options, self.generation)
        self.generation = replace(self.generation, metadata_text=metadata_text)
        self.options = {
            **options,
            "root_path": self._root.path,
            "metadata": "text" if metadata_text else "value",
        }
        self._files = WRITING.strict_files if locking else WRITING.files

    def __repr__(self) -> str:
        return f"<FilesDriver {self._root.path!r}>"

    def _create_topic(
        self, name: str, options: Mapping[str, Any], descriptions: Mapping[str, dict[str, Any]]
    ) -> None:
        """Create a topic of ``num_partitions``, 1 by default; other options are accepted, with a warning."""
        self.check_open()
        options = options_of(options)
        for key in options:
            if key not in _TOPIC_OPTIONS:
                log.warning("options.%s has no effect on a topic of the files driver", key)
        content = {
            component: msgspec.json.format(encode(description), indent=2)
            for component, description in descriptions.items()
        }
        self._root.create(name, partition_count(options) or 1, content)

    def delete_topic(self, name: str) -> None:
        """Delete a topic, see `diaspora_stream.driver.Driver.delete_topic`; not while another process writes it."""
        self.check_open()
        ours = [path for path in self._root.partitions(name) if WRITING.writer(path).is_open]

        def let_go() -> None:
            for writer in WRITING.of_topic(self._root.topic(name)):
                writer.end(TopicNotFound(name))

        self._root.delete(name, ours, let_go)

    @as_before("name", topic_name="name")
    def open_topic(self, name: str) -> EmbeddedTopic:
        """Open a topic, see `diaspora_stream.driver.Driver.open_topic`."""
        self.check_open()
        paths = self._root.partitions(name)
        descriptions = self._root.descriptions(name)
        partitions = [EmbeddedPartition(index, path, _reader_of(path)) for index, path in enumerate(paths)]
        return EmbeddedTopic(self, self, name, partitions, descriptions, self._thread_pool)

    @as_before("name", topic_name="name")
    def topic_exists(self, name: str) -> bool:
        """Tell whether there is a topic of this name."""
        self.check_open()
        return self._root.exists(name)

    def list_topics(self) -> dict[str, dict[str, Any]]:
        """Return all topics: name, directory, number of partitions, components."""
        self.check_open()
        topics = {}
        for name in self._root.names():
            try:
                descriptions = self._root.descriptions(name)
                topics[name] = {
                    "name": name,
                    "num_partitions": len(self._root.partitions(name)),
                    "partition_selector": descriptions["PartitionSelector"],
                    "path": self._root.topic(name),
                    "serializer": descriptions["Serializer"],
                    "validator": descriptions["Validator"],
                }
            except TopicNotFound:
                continue
        return topics

    def cursors(self, topic: str) -> Cursors:
        """Return the cursors of a topic."""
        is_synced = self._flush is FlushBehavior.IMMEDIATE
        return Cursors(self._root.cursors(topic), is_synced=is_synced, timeout=self.timeout)

    def lane(self, topic: str, partition: EmbeddedPartition, options: LaneOptions) -> Lane:
        """Make the way to a partition of a topic."""

        def make() -> Store:
            if not partition.exists():
                if not self._root.exists(topic):
                    raise TopicNotFound(topic)
                os.makedirs(partition.path)
            store = storage.open_to_write(partition.path, self._files, self._flush)
            self.cursors(topic).limit(partition.index, store.event_count)
            return store

        writer = WRITING.writer(partition.path)
        return Lane(options, writer, make, self._flush, self.timeout)

    @property
    def watching(self) -> Watching:
        """How consumers learn of new events."""
        return _watch


def _reader_of(path: str) -> Callable[[], Reader]:
    return lambda: storage.open_to_read(path)


def _watch(partitions: Sequence[EmbeddedPartition], callback: Callable[[], None]) -> Callable[[], None]:
    watch = WATCHER.watch([partition.path for partition in partitions if partition.exists()], callback)
    return lambda: WATCHER.unwatch(watch)
