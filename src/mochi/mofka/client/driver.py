"""The ``mofka`` driver: finds the master database of a service, creates and opens topics."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from msgspec.structs import replace

from diaspora_stream.driver import Driver
from diaspora_stream.errors import ConfigError, DiasporaError, TopicNotFound
from diaspora_stream.partition_selector import DefaultPartitionSelector, PartitionSelector
from diaspora_stream.serializer import DefaultSerializer, Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.validator import DefaultValidator, SchemaValidator, Validator
from mochi.bedrock.client import BedrockClient
from mochi.bedrock.spec import AUTOMATIC
from mochi.flock.errors import FlockError
from mochi.margo.errors import ConfigError as MargoConfigError
from mochi.margo.errors import Fault, MargoError
from mochi.mofka.client.group import Group
from mochi.mofka.client.options import TopicOptions, check_name, check_text, parse_driver, parse_topic
from mochi.mofka.client.service import PartitionInfo, Service, as_diaspora_error
from mochi.mofka.client.topic import MofkaTopic
from mochi.mofka.deletion import remove_partitions
from mochi.mofka.hosting import completed, provider_entry
from mochi.mofka.registry import PartitionRecord, Registry, TopicRecord
from mochi.yokan.errors import KeyNotFound

log = logging.getLogger(__name__)


class MofkaDriver(Driver):
    """Access to a Mofka service, see `diaspora_stream.driver.Driver`.

    Options
    -------
    group_file : str or os.PathLike
        Path of the group file of the service; whoever may read it may use the service.
    group_file_timeout_ms : int or float
        Milliseconds that a group file is waited for that is not there yet, 5000 by default.
    timeout_ms : int or float
        Milliseconds that blocking calls take at most, 30000 by default.
    margo : object
        A margo configuration; checked, and without effect: this client has no pools.
    """

    def _open(self, options: Any) -> None:
        parsed = parse_driver(options)
        self._group_file = parsed.group_file
        self._service = Service(parsed.timeout)
        try:
            self._group = Group(self._service, parsed.group_file, parsed.patience)
        except FlockError as error:
            raise ConfigError("options.group_file", str(error)) from error
        self._service.follow(self._group)
        self._bedrock = BedrockClient(self._service.client)
        self._thread_pool = ThreadPool(0)
        self._group.master()
        self._half_made: dict[str, list[PartitionRecord]] = {}

    def __repr__(self) -> str:
        return f"<MofkaDriver {self._group_file!r}, {self.num_servers} servers>"

    @property
    def num_servers(self) -> int:
        """Number of servers of the service, without those that have ended in good order."""
        return len(self._servers)

    @property
    def default_thread_pool(self) -> ThreadPool:
        """The pool of producers and consumers that are given none."""
        return self._thread_pool

    def start_progress_thread(self) -> None:
        """Do nothing: progress is made by those who wait, and by a thread of its own when nobody does."""

    @property
    def _servers(self) -> list[str]:
        self._group.refresh()
        return self._group.servers

    @property
    def _registry(self) -> Registry:
        return self._group.registry()

    def _providers(self, address: str) -> list[dict[str, Any]]:
        try:
            providers: list[dict[str, Any]] = self._bedrock.config(address)["providers"]
        except MargoError as error:
            raise as_diaspora_error(error, "asking a server for its providers") from error
        return providers

    def create_topic(
        self,
        name: str,
        *,
        options: Mapping[str, Any] = {},
        validator: Validator | None = None,
        partition_selector: PartitionSelector | None = None,
        serializer: Serializer | None = None,
        schema: Any = None,
    ) -> None:
        """Create a topic, see `diaspora_stream.driver.Driver.create_topic`.

        Parameters
        ----------
        options : mapping
            ``num_partitions``, ``config.type`` (``memory`` or ``default``), ``config.partition``, ``config.uuid``,
            ``dependencies``. Partition i is served by server i modulo their number, in the group file's order; servers
            that have ended in good order are not counted.
        schema : JSON Schema, optional
            Short for a ``schema`` validator.
        """
        check_name(name)
        wanted = parse_topic(options)
        if schema is not None:
            if validator is not None:
                raise TypeError("give a validator or a schema, not both")
            validator = SchemaValidator(schema=schema)
        components: dict[type, Any] = {
            Validator: validator or DefaultValidator(),
            PartitionSelector: partition_selector or DefaultPartitionSelector(),
            Serializer: serializer or DefaultSerializer(),
        }
        for kind, component in components.items():
            if not isinstance(component, kind):
                raise TypeError(
                    f"{component!r} is no {kind.__name__}; {kind.__name__}.from_metadata makes one"
                )
        descriptions = [component.to_metadata() for component in components.values()]
        try:
            self._create(name, wanted, descriptions)
        except MargoError as error:
            raise as_diaspora_error(error, f"creating topic {name!r}") from error

    def _create(self, name: str, wanted: TopicOptions, descriptions: list[dict[str, Any]]) -> None:
        self._group.read(lambda registry: registry.exists(name))
        self._group.ask_for_view()
        servers = self._servers
        planned = [
            self._plan(servers[index % len(servers)], uuid, wanted) for index, uuid in enumerate(wanted.uuids)
        ]
        self._undo_again()
        self._registry.reserve(name, planned)
        providers = cache(self._providers)
        try:
            self._registry.update(name, [self._start(name, partition, providers) for partition in planned])
            self._registry.publish(name, descriptions)
        except BaseException:
            self._roll_back(name, planned)
            raise

    def _roll_back(self, name: str, planned: list[PartitionRecord]) -> None:
        try:
            left = remove_partitions(self._registry, self._service.client, name, planned)
            self._registry.forget(name, [])
        except MargoError as error:
            left = {"its record": error}
            self._half_made[name] = planned
        for what, reason in left.items():
            log.error("topic %r could not be created, and %s not be undone: %s", name, what, reason)

    def _undo_again(self) -> None:
        """Roll back what could not be, for want of space as a rule; not what another made meanwhile."""
        for name, planned in list(self._half_made.items()):
            with suppress(MargoError):
                if not self._registry.exists(name):
                    remove_partitions(self._registry, self._service.client, name, planned)
                    self._registry.forget(name, [])
                self._half_made.pop(name, None)

    def _plan(self, address: str, uuid: str, wanted: TopicOptions) -> PartitionRecord:
        rank = self._group.ranks[address]
        return PartitionRecord(
            address, AUTOMATIC, uuid, rank, wanted.type, wanted.partition, wanted.dependencies
        )

    def _start(
        self, topic: str, partition: PartitionRecord, providers: Callable[[str], list[dict[str, Any]]]
    ) -> PartitionRecord:
        """Start a partition at its server; return its record."""
        address = partition.address
        try:
            needs = completed(partition, lambda: providers(address))
        except MargoConfigError as error:
            raise ConfigError(f"options.{error.where}", f"{error.problem} ({address})") from error
        master_address, master_id = self._group.master()
        entry = provider_entry(topic, needs, f"yokan:{master_id}@{master_address}")
        return replace(partition, provider_id=self._bedrock.start_provider(address, entry))

    def add_memory_partition(self, topic_name: str, server_rank: int, pool_name: str = "") -> None:
        """Add a partition that keeps its events in memory, see `add_custom_partition`."""
        self.add_custom_partition(topic_name, server_rank, "memory", {}, _named(pool=pool_name))

    def add_default_partition(
        self,
        topic_name: str,
        server_rank: int,
        abt_io_instance: str = "",
        partition_config: Mapping[str, Any] = {},
        pool_name: str = "",
    ) -> None:
        """Add a partition that keeps its events in files, see `add_custom_partition`.

        Parameters
        ----------
        abt_io_instance : str
            Name of an abt_io provider of that server; empty stands for its first.
        """
        needs = _named(io_controller=abt_io_instance, pool=pool_name)
        self.add_custom_partition(topic_name, server_rank, "default", partition_config, needs)

    def add_custom_partition(
        self,
        topic_name: str,
        server_rank: int,
        partition_type: str = "memory",
        partition_config: Mapping[str, Any] = {},
        dependencies: Mapping[str, str | Sequence[str]] = {},
    ) -> None:
        """Add a partition to a topic; handles that are opened from now on know of it.

        Parameters
        ----------
        server_rank : int
            Index of the server in the group file.
        partition_config : mapping
            Fields of the partition.
        dependencies : mapping
            A name, or a list of names, for each.

        Raises
        ------
        Exception
            No such topic or server, or the server cannot start such a partition; then nothing was changed.
        """
        if not (isinstance(server_rank, int) and 0 <= server_rank < self.num_servers):
            raise DiasporaError(
                f"server_rank {server_rank!r} does not exist, the service has servers 0 to {self.num_servers - 1}"
            )
        wanted = parse_topic(
            {
                "num_partitions": 1,
                "config": {"type": partition_type, "partition": partition_config},
                "dependencies": dependencies,
            }
        )
        self._load(topic_name)
        try:
            planned = self._plan(self._servers[server_rank], wanted.uuids[0], wanted)
            partition = self._start(topic_name, planned, self._providers)
            try:
                self._registry.add_partition(topic_name, partition)
            except BaseException:
                remove_partitions(self._registry, self._service.client, topic_name, [partition])
                raise
        except MargoError as error:
            raise as_diaspora_error(error, f"adding a partition to topic {topic_name!r}") from error

    def _load(self, name: str) -> TopicRecord:
        check_text("topic name", name)
        try:
            record = self._group.load(name)
        except MargoError as error:
            raise as_diaspora_error(error, f"opening topic {name!r}") from error
        if record is None:
            raise TopicNotFound(name, tuple(self.list_topics()))
        return record

    def open_topic(self, name: str) -> MofkaTopic:
        """Open a topic, see `diaspora_stream.driver.Driver.open_topic`."""
        record = self._load(name)
        return MofkaTopic(
            self._service,
            name,
            [
                PartitionInfo(index, partition.address, partition.provider_id, partition.uuid)
                for index, partition in enumerate(record.partitions)
            ],
            Validator.from_metadata(**record.validator),
            PartitionSelector.from_metadata(**record.selector),
            Serializer.from_metadata(**record.serializer),
            self._thread_pool,
        )

    def delete_topic(self, name: str) -> None:
        """Delete a topic, see `diaspora_stream.driver.Driver.delete_topic`.

        What is left of a topic whose creation or deletion was interrupted is removed as well. A partition whose server
        does not answer is removed when that starts again; a warning names it.

        Raises
        ------
        TopicNotFound
            There is nothing of this name.
        DiasporaError
            The topic is gone, and a server cannot remove what is stored of a partition.
        """
        check_text("topic name", name)
        try:
            self._registry.withdraw(name)
            partitions = self._registry.partitions(name)
            left = remove_partitions(self._registry, self._service.client, name, partitions)
            self._registry.forget(name, [])
        except KeyNotFound:
            raise TopicNotFound(name, tuple(self.list_topics())) from None
        except MargoError as error:
            raise as_diaspora_error(error, f"deleting topic {name!r}") from error
        for uuid, reason in left.items():
            problem = f"topic {name!r} is deleted, but what is stored of partition {uuid} not yet: {reason}"
            if isinstance(reason, Fault):
                raise DiasporaError(f"{problem}; delete it again, or start that server again")
            log.warning("%s; it is removed when that server starts again", problem)

    def topic_exists(self, name: str) -> bool:
        """Tell whether there is a topic of this name."""
        check_text("topic name", name)
        try:
            return self._group.read(lambda registry: registry.exists(name))
        except MargoError as error:
            raise as_diaspora_error(error, f"looking for topic {name!r}") from error

    def list_topics(self) -> dict[str, dict[str, Any]]:
        """Return all topics: components, number of partitions, and the partitions."""
        self._undo_again()
        try:
            return self._group.read(_listed)
        except MargoError as error:
            raise as_diaspora_error(error, "listing the topics") from error

    def close(self) -> None:
        """Flush what is pending within the driver's time-out, and close all connections."""
        lost = self._service.close()
        if lost:
            raise DiasporaError(f"{lost} events could not be stored before the driver was closed")


def _listed(registry: Registry) -> dict[str, dict[str, Any]]:
    topics: dict[str, dict[str, Any]] = {}
    for name in registry.names():
        record = registry.load(name)
        if record is not None:
            topics[name] = {
                "name": name,
                "num_partitions": len(record.partitions),
                "partition_selector": record.selector,
                "partitions": [
                    {"address": each.address, "provider_id": each.provider_id, "uuid": each.uuid}
                    for each in record.partitions
                ],
                "serializer": record.serializer,
                "validator": record.validator,
            }
    return topics


def _named(**dependencies: str) -> dict[str, str]:
    """Return the dependencies that are named."""
    return {kind: name for kind, name in dependencies.items() if name}
