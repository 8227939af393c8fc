"""The ``mofka`` driver: finds the master database of a service, creates and opens topics."""

import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from diaspora_stream.arguments import check_object, check_text, options_of
from diaspora_stream.driver import Driver
from diaspora_stream.errors import (
    ConfigError,
    ConnectionFailed,
    DiasporaError,
    TimeoutExpired,
    TopicExists,
    TopicNotFound,
)
from diaspora_stream.generations import OLDEST, as_before
from diaspora_stream.integers import unsigned
from diaspora_stream.partition_selector import selector_of
from diaspora_stream.serializer import Serializer
from diaspora_stream.thread_pool import ThreadPool
from diaspora_stream.validator import validator_of
from mochi.bedrock.client import BedrockClient
from mochi.bedrock.rpc import ENGINE_ID
from mochi.flock.errors import FlockError
from mochi.margo.errors import ConnectionLost, Fault, MargoError
from mochi.mofka.client.group import Group
from mochi.mofka.client.options import check_sendable, options_by_position, parse_driver, parse_topic
from mochi.mofka.client.refusals import PartitionInfo, as_diaspora_error, telling
from mochi.mofka.client.service import Service, deadline_after
from mochi.mofka.client.topic import MofkaTopic
from mochi.mofka.hosting import DATA_TAG, METADATA_TAG
from mochi.mofka.protocol import (
    ADD_PARTITION,
    ATTACH_TOPIC,
    CREATE_TOPIC,
    DELETE_TOPIC,
    AddPartition,
    AttachTopic,
    CreateTopic,
    DeleteTopic,
    Kind,
    Place,
    TopicChanged,
)
from mochi.mofka.registry import BadRecord, Registry, TopicRecord

log = logging.getLogger(__name__)

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


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
    metadata : "text" or "value"
        Whether ``event.metadata`` is JSON text, as it was for the oldest programs. If it is not given, the environment
        variable ``MOFKA_METADATA`` says so.

    Notes
    -----
    Programs of the oldest generation give the group file by position, and maybe an engine, which has no effect. They
    get what they rely on: metadata as text, a `flush` that blocks, sizes that can be called.
    """

    def __init__(self, *older: Any, backend: str = "", options: Any = None, **own_options: Any) -> None:
        if older:
            self._begin(OLDEST, options_by_position(older, own_options))
        else:
            super().__init__(backend=backend, options=options, **own_options)

    def _open(self, options: Any) -> None:
        parsed = parse_driver(options, self.generation)
        self.generation = parsed.generation
        self.options = {
            **options_of(options),
            "group_file": parsed.group_file,
            "metadata": "text" if parsed.generation.metadata_text else "value",
        }
        self._group_file = parsed.group_file
        self._service = Service(parsed.timeout)
        try:
            self._group = Group(self._service, parsed.group_file, parsed.patience)
        except FlockError as error:
            raise ConfigError("options.group_file", str(error)) from error
        self._service.follow(self._group)
        self._thread_pool = ThreadPool(0)
        self._group.master()

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
        self._service.check_open()
        self._group.refresh()
        return self._group.servers

    @property
    def _registry(self) -> Registry:
        return self._group.registry()

    def _create_topic(
        self, name: str, options: Mapping[str, Any], descriptions: Mapping[str, dict[str, Any]]
    ) -> None:
        """Create a topic.

        Its options are ``num_partitions``, ``config.type`` (``memory``, ``default`` or ``legacy``),
        ``config.partition``, ``config.uuid`` and ``dependencies``. Partition i is served by server i modulo their
        number, in the order of the group file. Servers that have ended in good order are not counted.
        """
        wanted = parse_topic(options, self.generation)
        for where, description in descriptions.items():
            check_sendable(description, where)
        self._group.ask_for_view()
        servers = self._servers
        places = [self._place(servers[index % len(servers)], uuid) for index, uuid in enumerate(wanted.uuids)]
        validator_of, selector_of, serializer_of = descriptions.values()
        kind = Kind(wanted.type, wanted.partition, wanted.dependencies)

        def ask(timeout_ms: int) -> CreateTopic:
            return CreateTopic(name, timeout_ms, kind, places, validator_of, selector_of, serializer_of)

        self._change(name, f"creating topic {name!r}", CREATE_TOPIC, ask, lambda: self._has(name, places))

    def _place(self, address: str, uuid: str) -> Place:
        return Place(self._group.ranks[address], address, uuid)

    def _has(self, name: str, places: Sequence[Place]) -> bool:
        """Tell whether a topic is the one that was asked for with these partitions."""
        record = self._registry.load(name)
        uuids = [] if record is None else [partition.uuid for partition in record.partitions]
        return uuids == [place.uuid for place in places]

    def _change(
        self,
        name: str,
        what: str,
        rpc: str,
        ask: Callable[[int], Struct],
        is_done: Callable[[], bool],
    ) -> None:
        """Have the server of the master database change a topic, and show its warnings.

        Parameters
        ----------
        ask : callable
            Makes the request, given the milliseconds that are left.
        is_done : callable
            Tells whether it was done before, asked if a request is refused that follows one without an answer.
        """
        deadline = deadline_after(self._service.timeout)
        is_unknown = False

        def send(master: tuple[str, int]) -> TopicChanged:
            nonlocal is_unknown
            left = max(deadline - time.monotonic(), 1e-3)
            message = ask(math.ceil(left * 1000))
            try:
                return self._service.client.call(
                    master[0], rpc, message, TopicChanged, provider_id=ENGINE_ID, timeout=left
                )
            except ConnectionLost:
                is_unknown = True
                raise

        try:
            changed = self._group.ask(send)
        except Fault as fault:
            if fault.code in ("topic_exists", "topic_not_found") and is_unknown and is_done():
                return
            raise self._refusal(name, what, fault) from fault
        except MargoError as error:
            raise as_diaspora_error(error, what) from error
        for text in changed.warnings:
            log.warning("%s", text)

    def _refusal(self, name: str, what: str, fault: Fault) -> DiasporaError:
        """Return the error that tells an application why a topic was not changed."""
        match fault.code:
            case "topic_exists":
                return TopicExists(name)
            case "topic_not_found":
                return TopicNotFound(name, tuple(self.list_topics()))
            case "timeout":
                return TimeoutExpired(f"{what}: {fault}")
            case "unreachable":
                return ConnectionFailed(f"{what}: {fault}")
            case "no_rpc" | "no_provider":
                return DiasporaError(
                    f"{what}: {fault}; the server that has the master database needs the library "
                    "libmofka-bedrock-module.so"
                )
            case "config" if "where" in fault.details:
                where = fault.details["where"]
                return ConfigError(
                    where if where == "topic name" else f"options.{where}", fault.details["problem"]
                )
        return as_diaspora_error(fault, what)

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
        *,
        metadata_provider: str | None = None,
        data_provider: str | None = None,
    ) -> None:
        """Add a partition that keeps its events in files, see `add_custom_partition`.

        Parameters
        ----------
        abt_io_instance : str
            Name of an abt_io provider of that server; empty stands for its first.
        metadata_provider, data_provider : str, optional
            Where older programs say so, the partition is a legacy one, see `add_legacy_partition`.
        """
        if metadata_provider is not None or data_provider is not None:
            self.add_legacy_partition(
                topic_name,
                server_rank,
                metadata_provider or "",
                data_provider or "",
                partition_config,
                pool_name,
            )
            return
        needs = _named(io_controller=abt_io_instance, pool=pool_name)
        self.add_custom_partition(topic_name, server_rank, "default", partition_config, needs)

    def add_legacy_partition(
        self,
        topic_name: str,
        server_rank: int,
        metadata_provider: str = "",
        data_provider: str = "",
        partition_config: Mapping[str, Any] = {},
        pool_name: str = "",
    ) -> None:
        """Add a partition that keeps its events in a database and a target, see `add_custom_partition`.

        Parameters
        ----------
        metadata_provider, data_provider : str
            Name of a yokan and of a warabi provider of that server, or ``name@address`` of one of any server. Empty
            stands for that server's first one with the tag ``mofka:metadata``, and ``mofka:data``.
        """
        needs = _named(metadata=metadata_provider, data=data_provider, pool=pool_name)
        self.add_custom_partition(topic_name, server_rank, "legacy", partition_config, needs)

    def add_metadata_provider(
        self,
        server_rank: int,
        database_type: str = "map",
        database_config: Mapping[str, Any] = {},
        dependencies: Mapping[str, str | Sequence[str]] = {},
    ) -> str:
        """Start a database for metadata of legacy partitions; return what names it, ``name@address``.

        It ends with its server: one that is to be there again stands in the configuration.

        Parameters
        ----------
        server_rank : int
            Index of the server in the group file.
        database_type, database_config : str, mapping
            The ``database`` section of a yokan provider.

        Raises
        ------
        Exception
            No such server, or it cannot start such a provider.
        """
        check_text("database_type", database_type)
        config = {
            "database": {"type": database_type, "config": check_object("database_config", database_config)}
        }
        return self.add_default_metadata_provider(server_rank, config, dependencies)

    def add_default_metadata_provider(
        self,
        server_rank: int,
        config: Mapping[str, Any] = {"database": {"type": "map", "config": {}}},
        dependencies: Mapping[str, str | Sequence[str]] = {},
    ) -> str:
        """Start a database, given the whole of its configuration; see `add_metadata_provider`."""
        return self._add_provider(server_rank, "yokan", METADATA_TAG, config, dependencies)

    def add_data_provider(
        self,
        server_rank: int,
        target_type: str = "memory",
        target_config: Mapping[str, Any] = {},
        dependencies: Mapping[str, str | Sequence[str]] = {},
    ) -> str:
        """Start a target for data of legacy partitions; return what names it; see `add_metadata_provider`.

        Parameters
        ----------
        target_type, target_config : str, mapping
            The ``target`` section of a warabi provider.
        """
        check_text("target_type", target_type)
        config = {"target": {"type": target_type, "config": check_object("target_config", target_config)}}
        return self.add_default_data_provider(server_rank, config, dependencies)

    def add_default_data_provider(
        self,
        server_rank: int,
        config: Mapping[str, Any] = {"target": {"type": "memory", "config": {}}},
        dependencies: Mapping[str, str | Sequence[str]] = {},
    ) -> str:
        """Start a target, given the whole of its configuration; see `add_data_provider`."""
        return self._add_provider(server_rank, "warabi", DATA_TAG, config, dependencies)

    def _add_provider(
        self,
        server_rank: int,
        kind: str,
        tag: str,
        config: Mapping[str, Any],
        dependencies: Mapping[str, str | Sequence[str]],
    ) -> str:
        address = self._server_at(server_rank)
        name = f"{kind}_{secrets.token_hex(4)}"
        needs = {
            field: names if isinstance(names, str) else list(names)
            for field, names in check_object("dependencies", dependencies).items()
        }
        settings = check_object("config", config)
        entry = {"name": name, "type": kind, "tags": [tag], "config": settings, "dependencies": needs}
        with telling(f"starting a {kind} provider at {address}"):
            BedrockClient(self._service.client).start_provider(address, entry)
        return f"{name}@{address}"

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
        address = self._server_at(server_rank)
        config = {
            "type": check_text("partition_type", partition_type),
            "partition": check_object("partition_config", partition_config),
        }
        needs = check_object("dependencies", dependencies)
        wanted = parse_topic({"num_partitions": 1, "config": config, "dependencies": needs})
        check_text("topic name", topic_name)
        place = self._place(address, wanted.uuids[0])
        kind = Kind(wanted.type, wanted.partition, wanted.dependencies)

        def ask(timeout_ms: int) -> AddPartition:
            return AddPartition(topic_name, timeout_ms, kind, place)

        self._change(
            topic_name, f"adding a partition to topic {topic_name!r}", ADD_PARTITION, ask, lambda: False
        )

    def attach_topic(self, name: str, path: str, *, server_rank: int = 0) -> None:
        """Have partitions of a topic that nobody serves, as the original has left them, served from their directories.

        Nothing is removed, and no directory is made: one that is missing is named in a warning, or in the error if
        there is none.

        Parameters
        ----------
        path : str
            At the server: where the directories ``<name>-<uuid>`` of the partitions are, or one of these.
        server_rank : int
            Index of the server in the group file.
        """
        check_text("topic name", name)
        check_text("path", path)
        address = self._server_at(server_rank)
        directory, base = os.path.split(os.path.normpath(path))
        uuid = base.removeprefix(f"{name}-") if re.fullmatch(f"{re.escape(name)}-{_UUID}", base) else ""
        rank = self._group.ranks[address]

        def ask(timeout_ms: int) -> AttachTopic:
            return AttachTopic(name, timeout_ms, directory if uuid else path, uuid, rank, address)

        self._change(name, f"attaching topic {name!r}", ATTACH_TOPIC, ask, lambda: False)

    def _server_at(self, server_rank: int) -> str:
        rank = unsigned("server_rank", server_rank)
        servers = self._servers
        if rank >= len(servers):
            raise DiasporaError(
                f"server_rank {rank} does not exist, the service has servers 0 to {len(servers) - 1}"
            )
        return servers[rank]

    def _load(self, name: str) -> TopicRecord:
        check_text("topic name", name)
        with telling(f"opening topic {name!r}"):
            record = self._group.load(name)
        if record is None:
            raise TopicNotFound(name, tuple(self.list_topics()))
        return record

    @as_before("name", topic_name="name")
    def open_topic(self, name: str) -> MofkaTopic:
        """Open a topic, see `diaspora_stream.driver.Driver.open_topic`."""
        record = self._load(name)
        return MofkaTopic(
            self,
            self._service,
            name,
            [
                PartitionInfo(index, partition.address, partition.provider_id, partition.uuid)
                for index, partition in enumerate(record.partitions)
            ],
            validator_of(name, record.validator),
            selector_of(record.selector),
            Serializer.described(record.serializer),
            self._thread_pool,
        )

    def delete_topic(self, name: str) -> None:
        """Delete a topic, see `diaspora_stream.driver.Driver.delete_topic`.

        A topic that is being made is deleted once that is over. What is left of one whose creation or deletion was
        interrupted is removed as well. A partition whose server does not answer is removed when that starts again; a
        warning names it.

        Raises
        ------
        TopicNotFound
            There is nothing of this name.
        DiasporaError
            The topic is gone, and a server cannot remove what is stored of a partition.
        """
        check_text("topic name", name)
        self._change(
            name, f"deleting topic {name!r}", DELETE_TOPIC, lambda left: DeleteTopic(name, left), lambda: True
        )

    @as_before("name", topic_name="name")
    def topic_exists(self, name: str) -> bool:
        """Tell whether there is a topic of this name."""
        check_text("topic name", name)
        with telling(f"looking for topic {name!r}"):
            return self._group.read(lambda registry: registry.exists(name))

    def list_topics(self) -> dict[str, dict[str, Any]]:
        """Return all topics: components, number of partitions, and the partitions.

        Of a topic whose record cannot be read there is an ``error`` instead.
        """
        with telling("listing the topics"):
            return self._group.read(_listed)

    def close(self) -> None:
        """Flush what is pending within the driver's time-out, and close all connections."""
        lost = self._service.close()
        if lost:
            raise DiasporaError(f"{lost} events could not be stored before the driver was closed")


def _listed(registry: Registry) -> dict[str, dict[str, Any]]:
    topics: dict[str, dict[str, Any]] = {}
    for name in registry.names():
        try:
            record = registry.load(name)
        except BadRecord as error:
            topics[name] = {"name": name, "error": error.problem}
            continue
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
    for name in registry.bad_names():
        topics[name] = {"name": name, "error": "the name is no text"}
    return topics


def _named(**dependencies: str) -> dict[str, str]:
    """Return the dependencies that are named."""
    return {kind: name for kind, name in dependencies.items() if check_text(f"the name of a {kind}", name)}
