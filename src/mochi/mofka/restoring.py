"""What a server does for the partitions of its service when it starts again.

It finds the master database, takes back the partitions that are recorded for its ordinal, at its new address, and
finishes what was cut short: creations, and deletions while it was down. A partition that cannot be opened keeps its
record, and has a stand-in that says why to all who ask for it; the others are served.

While a server that may have the master database does not answer, it is waited for, and the log says for whom. Of two
master databases, which nobody means to have, the first in the order of addresses is used, as clients do.

A service without a master database, or with one that remembers nothing, restores nothing.
"""

import logging
import os
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import cast

import msgspec
from msgspec.structs import replace

from mochi.bedrock.client import BedrockClient, ask_all
from mochi.bedrock.modules import Deployed
from mochi.flock.client import FlockClient
from mochi.flock.group_file import Member
from mochi.flock.provider import FlockProvider
from mochi.margo import deployment
from mochi.margo.client import Client
from mochi.margo.errors import ConfigError, Fault, MargoError
from mochi.mofka.chunks import ChunkStore, PosixFiles, StorageError, remove_partition
from mochi.mofka.deletion import remove_partitions, warn_of_kept
from mochi.mofka.hosting import completed, master_among, partitions_among, provider_entry
from mochi.mofka.partition.config import directory_of
from mochi.mofka.registry import PartitionRecord, Registry
from mochi.yokan.client import DatabaseHandle
from mochi.yokan.database import Database
from mochi.yokan.errors import KeyNotFound
from mochi.yokan.provider import YokanProvider

log = logging.getLogger(__name__)

RETRY_INTERVAL = 0.5
"""Seconds between two rounds of asking the other servers for the master database."""

ANSWER_TIMEOUT = 5.0
"""Seconds that another server has to answer in one round."""

REMINDER = 60.0
"""Seconds between two lines that say who is waited for."""


class Restoration:
    """Restores the partitions of one server.

    Parameters
    ----------
    unopened : mapping
        Where the module looks up, by uuid, why a partition that it is to make can only be a stand-in.
    """

    def __init__(self, server: Deployed, unopened: MutableMapping[str, Fault]) -> None:
        self._server = server
        self._unopened = unopened
        self._providers = server.config()["providers"]
        self._running = partitions_among(self._providers)
        self._client = Client(timeout=ANSWER_TIMEOUT)
        self._heard: tuple[Member, ...] = ()

    def run(self) -> None:
        """Do it; blocks until the master database is found, or for the time-out of dependencies if there is one.

        Raises
        ------
        MargoError
            A server that may have the master database does not answer, or that fails.
        """
        try:
            found = self._find_master()
            if found is not None:
                self._restore(*found)
        finally:
            self._client.close()

    def _find_master(self) -> tuple[Database, str] | None:
        """Return the master database, and what it is called as a dependency."""
        own = master_among(self._providers)
        timeout = self._server.dependency_resolution_timeout
        began = time.monotonic()
        reminder = began
        while True:
            masters, failures = self._ask_others()
            if own is not None:
                masters[self._server.address] = own["provider_id"]
            if masters:
                if reminder != began:
                    log.info("the master database is there, at %s", min(masters))
                return self._chosen(masters)
            if not failures:
                return None
            waits_for = "; ".join(failures)
            now = time.monotonic()
            if timeout is not None and now > began + timeout:
                raise MargoError(
                    f"the master database, which knows the partitions of this server, is not found: {waits_for}"
                )
            if now >= reminder:
                log.warning(
                    "waits for the master database, which knows the partitions of this server: %s", waits_for
                )
                reminder = now + REMINDER
            self._server.rest(RETRY_INTERVAL)

    def _chosen(self, masters: Mapping[str, int]) -> tuple[Database, str]:
        """Return the first of the master databases, which are given by their addresses, and its name."""
        address, *others = sorted(masters)
        number = masters[address]
        is_here = address == self._server.address
        if others:
            deployment.log.log(
                logging.WARNING if self._server.speaks else logging.DEBUG,
                "%d servers have a master database, of which that at %s is used, and none of those at %s; "
                'a condition ("__if__") leaves it to one of them',
                len(masters),
                address,
                ", ".join(others),
            )
        if not is_here:
            return DatabaseHandle(self._client, address, number), f"yokan:{number}@{address}"
        own = master_among(self._providers)
        assert own is not None
        return cast(YokanProvider, self._server.provider(own["name"])).database, f"yokan:{number}@{address}"

    def _ask_others(self) -> tuple[dict[str, int], list[str]]:
        """Ask the other servers for master databases; return these by addresses, and who does not answer, and why.

        A member that answers may know where others are now.
        """
        members = self._meet_others()
        masters: dict[str, int] = {}
        failures: dict[int | None, str] = {}
        answering: set[int | None] = set()
        self._heard = ()
        for address, answer in ask_all(members, lambda address: self._ask(members[address])).items():
            rank = members[address].rank
            if isinstance(answer, MargoError):
                failures[rank] = f"rank {rank}: {answer}"
                continue
            master, heard = answer
            if master is not None:
                masters[address] = master
            answering.add(rank)
            self._heard += heard
        return masters, [failure for rank, failure in failures.items() if rank not in answering]

    def _ask(self, member: Member) -> tuple[int | None, tuple[Member, ...]]:
        """Return the provider id of a server's master database, and what it knows of the others."""
        master = master_among(BedrockClient(self._client).config(member.address)["providers"])
        heard: tuple[Member, ...] = ()
        with suppress(Fault):
            heard = FlockClient(self._client).view(member.address, member.provider_id).ranked().members
        return None if master is None else master["provider_id"], heard

    def _meet_others(self) -> dict[str, Member]:
        """Be ready to call the other servers of the group, which may move meanwhile; return them by address."""
        for provider in self._providers:
            if provider["type"] == "flock":
                view = cast(FlockProvider, self._server.provider(provider["name"])).view
                members = {
                    member.address: member
                    for member in (*self._heard, *view.ranked().members)
                    if member.rank != self._server.rank and member.address != self._server.address
                }
                if view.token is not None:
                    for member in members.values():
                        self._client.set_token(member.address, view.token, member.rank)
                return members
        return {}

    def _restore(self, database: Database, master: str) -> None:
        registry = Registry(database)
        is_master_here = not isinstance(database, DatabaseHandle)
        served, topics = 0, 0
        for topic in registry.names():
            try:
                count = self._take_back(registry, topic, master)
                served, topics = served + count, topics + bool(count)
            except KeyNotFound:
                log.info("topic %r was deleted meanwhile", topic)
            except msgspec.MsgspecError as error:
                log.error("topic %r: its record cannot be read: %s", topic, error)
        if served:
            log.info("serves %s of %s again", _counted(served, "partition"), _counted(topics, "topic"))
        for topic in registry.leftovers():
            with suppress(KeyNotFound):
                self._finish(registry, topic, is_master_here)

    def _take_back(self, registry: Registry, topic: str, master: str) -> int:
        """Start the partitions of a topic that are of this server; return how many of them it really serves."""
        there: list[PartitionRecord] = []
        served = 0
        for partition in registry.partitions(topic):
            if (topic, partition.uuid) in self._running:
                provider_id: int | None = self._running[topic, partition.uuid]["provider_id"]
                is_served = True
            elif partition.rank == self._server.rank:
                provider_id, is_served = self._start(topic, partition, master)
            else:
                continue
            served += is_served
            if provider_id is not None:
                there.append(replace(partition, address=self._server.address, provider_id=provider_id))
        if there:
            registry.update(topic, there)
        return served

    def _start(self, topic: str, partition: PartitionRecord, master: str) -> tuple[int | None, bool]:
        """Start a partition, or else what stands for it; return its provider id, and whether it is the partition."""
        where = f"topic {topic!r}, partition {partition.uuid}"
        try:
            directory = _directory_of(topic, partition)
            if directory is not None and not os.path.isdir(directory):
                raise ConfigError("config.partition.path", f"the directory {directory} is missing")
            entry = provider_entry(topic, completed(partition, lambda: self._providers), master)
            return self._server.start_provider(entry, "partition"), True
        except MargoError as error:
            log.error("%s: cannot be opened, and is not served: %s", where, error)
            reason = f"{where} could not be opened when its server started: {error}"
        self._unopened[partition.uuid] = Fault("unavailable", reason)
        try:
            entry = provider_entry(topic, partition, master)
            return self._server.start_provider({**entry, "dependencies": {}}, "partition"), False
        except MargoError as error:
            log.error("%s: nothing can stand for it either: %s", where, error)
            return None, False
        finally:
            self._unopened.pop(partition.uuid, None)

    def _finish(self, registry: Registry, topic: str, is_master_here: bool) -> None:
        """Remove what is left of a topic here, and elsewhere if the others have no cause to do it by themselves."""
        elsewhere = []
        for partition in registry.partitions(topic):
            if partition.rank != self._server.rank:
                elsewhere.append(partition)
                continue
            try:
                _remove(topic, partition)
            except StorageError as error:
                log.error("topic %r, partition %s cannot be removed: %s", topic, partition.uuid, error)
            else:
                registry.forget(topic, [partition.uuid])
        if is_master_here:
            self._meet_others()
            for uuid, reason in remove_partitions(registry, self._client, topic, elsewhere).items():
                log.warning("topic %r, partition %s is still to be removed: %s", topic, uuid, reason)
            registry.forget(topic, [])
        log.info("topic %r: removed what an interrupted creation or deletion has left", topic)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _directory_of(topic: str, partition: PartitionRecord) -> str | None:
    path = partition.partition.get("path")
    return None if partition.type != "default" or path is None else directory_of(topic, partition.uuid, path)


def _remove(topic: str, partition: PartitionRecord) -> None:
    directory = _directory_of(topic, partition)
    if directory is None:
        return
    if not partition.deleted and os.path.isdir(directory):
        with ChunkStore.open(directory) as store:
            if store.event_count:
                warn_of_kept(topic, partition, [directory])
                return
    warn_of_kept(topic, partition, remove_partition(PosixFiles(), directory))
