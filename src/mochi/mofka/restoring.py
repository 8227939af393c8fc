"""What a server does for the partitions of its service when it starts again.

It finds the master database, and has the server of that finish what was cut short: creations, additions, and deletions
while it was down. Then it takes back the partitions that are recorded for its rank, at its new address. A partition
that cannot be opened keeps its record, and has a stand-in that says why to all who ask for it; the others are served.
It is tried again now and then, for another process may let go of it, or its disk be mounted late.

While a server that may have the master database does not answer, it is waited for, and the log says for whom. Of two
master databases, which nobody means to have, the first in the order of addresses is used, as clients do.

A service without a master database, or with one that remembers nothing, restores nothing.
"""

import logging
import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from functools import partial
from typing import cast

from msgspec.structs import replace

from mochi import shortage
from mochi.bedrock.client import BedrockClient, ask_all
from mochi.bedrock.errors import BedrockError
from mochi.bedrock.modules import Deployed
from mochi.bedrock.rpc import ENGINE_ID
from mochi.disk import PosixFiles
from mochi.flock.client import FlockClient
from mochi.flock.group_file import Member
from mochi.flock.provider import FlockProvider
from mochi.margo import deployment
from mochi.margo.client import Client
from mochi.margo.errors import AddressError, ConnectionLost, DeadlineExceeded, Fault, MargoError
from mochi.mofka.chunks import LOCK_NAME, PartitionLocked, StorageError
from mochi.mofka.deletion import path_of, served_as_usual
from mochi.mofka.hosting import completed, master_among, partitions_among, provider_entry, provider_name
from mochi.mofka.partition.config import directory_of
from mochi.mofka.protocol import SETTLE_TOPIC, SettleTopic, TopicChanged
from mochi.mofka.registry import BadRecord, PartitionRecord, Registry
from mochi.mofka.topics import Topics
from mochi.yokan.errors import KeyNotFound
from mochi.yokan.errors import StorageError as StorageFault
from mochi.yokan.handle import DatabaseHandle

log = logging.getLogger(__name__)

OWN_PATIENCE = 10.0
"""Seconds that the server of the master database waits for what was cut short to be cleared away."""

SETTLE_TIMEOUT = 30.0
"""Seconds that another server has to do so, which may be changing the topic."""

RETRY_INTERVAL = 0.5
"""Seconds between two rounds of asking the other servers for the master database."""

FIRST_PATIENCE = 1.0
PATIENCE = 30.0
"""Seconds that another server has to answer: in the first round, twice as many in the next, and at most."""

FIRST_RETRY = 0.5
LONGEST_RETRY = 30.0
"""Seconds between two attempts at what could not be opened; twice as many each time."""

REMINDER = 60.0
"""Seconds between two lines that say who is waited for."""


class Restoration:
    """Restores the partitions of one server.

    Parameters
    ----------
    unopened : mapping
        Where the module looks up, by uuid, why a partition that it is to make can only be a stand-in.
    topics : callable
        Gives the topics of the master database of this server, if it has one.
    """

    def __init__(
        self, server: Deployed, unopened: MutableMapping[str, Fault], topics: Callable[[], Topics | None]
    ) -> None:
        self._server = server
        self._unopened = unopened
        self._topics = topics
        self._providers = server.config()["providers"]
        self._configured = partitions_among(self._providers)
        self._unattached: list[tuple[str, str]] = []
        self._client = Client(timeout=FIRST_PATIENCE)
        self._heard: tuple[Member, ...] = ()
        self._unserved: dict[tuple[str, str], str] = {}

    def run(self) -> None:
        """Do it; blocks until the master database is found, or for the time-out of dependencies if there is one.

        Raises
        ------
        MargoError
            A server that may have the master database does not answer, or that fails.
        """
        try:
            while not self._has_restored():
                self._server.rest(RETRY_INTERVAL)
        finally:
            self._client.close()
        if self._unserved:
            shortage.start(threading.Thread(target=self._try_again, name="mofka-reopen", daemon=True))

    def _has_restored(self) -> bool:
        """Find the master database, and restore by what it says; False if its server goes away meanwhile."""
        found = self._find_master()
        if found is None:
            return True
        address, number = found
        own = self._topics() if address == self._server.address else None
        if own is None:
            registry = Registry(DatabaseHandle(self._client, address, number))
            try:
                self._restore(registry, f"yokan:{number}@{address}", partial(self._ask_master, address))
            except (AddressError, ConnectionLost, DeadlineExceeded) as error:
                log.warning("the server of the master database has gone away: %s", error)
                return False
            return True
        self._restore(own.registry, own.master, lambda asked: own.ask(asked).result(OWN_PATIENCE))
        self._tell_of_unattached(own)
        for name in own.registry.bad_names():
            log.error("a topic of the master database has a name that is no text: %s", name)
        return True

    def _try_again(self) -> None:
        """Try to open what could not be opened, until all of it is, or the server ends."""
        pause = FIRST_RETRY
        with suppress(BedrockError):  # the server ends
            while self._unserved:
                self._server.rest(pause)
                pause = min(2 * pause, LONGEST_RETRY)
                try:
                    for topic, uuid in list(self._unserved):
                        if self._is_settled(topic, uuid):
                            del self._unserved[topic, uuid]
                except BedrockError:
                    raise
                except MargoError as error:
                    log.debug("partitions that are not served: %s", error)
        self._client.close()

    def _is_settled(self, topic: str, uuid: str) -> bool:
        """Open a partition for which a stand-in was made; True if that worked, or it is not of the topic any more."""
        found = self._find_master()
        if found is None:
            return False
        address, number = found
        own = self._topics() if address == self._server.address else None
        registry = own.registry if own else Registry(DatabaseHandle(self._client, address, number))
        try:
            partition = next(
                each for each in registry.partitions(topic) if each.uuid == uuid and not each.deleted
            )
        except (KeyNotFound, StopIteration):
            return True
        if not _may_open(topic, partition):
            return False
        name = provider_name(topic, uuid)
        if served_as_usual(self._server, topic, uuid) is not None:
            self._server.stop_provider(name)
        provider_id, is_served = self._start(topic, partition, f"yokan:{number}@{address}")
        if provider_id is not None:
            moved = replace(partition, address=self._server.address, provider_id=provider_id)
            registry.update(topic, [moved])
        if is_served:
            log.info("topic %r, partition %s: is served again", topic, uuid)
        return is_served

    def _find_master(self) -> tuple[str, int] | None:
        """Return the address of the master database, and its provider id."""
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
                self._client.timeout = PATIENCE
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
            self._client.timeout = min(2 * self._client.timeout, PATIENCE)

    def _chosen(self, masters: Mapping[str, int]) -> tuple[str, int]:
        """Return the first of the master databases, which are given by their addresses."""
        address, *others = sorted(masters)
        if others:
            deployment.log.log(
                logging.WARNING if self._server.speaks else logging.DEBUG,
                "%d servers have a master database, of which that at %s is used, and none of those at %s; "
                'a condition ("__if__") leaves it to one of them',
                len(masters),
                address,
                ", ".join(others),
            )
        return address, masters[address]

    def _ask_master(self, address: str, asked: SettleTopic) -> TopicChanged:
        """Have a topic settled by the server of the master database, which may be starting as well."""
        patience = self._server.dependency_resolution_timeout
        deadline = float("inf") if patience is None else time.monotonic() + patience
        while True:
            try:
                return self._client.call(
                    address, SETTLE_TOPIC, asked, TopicChanged, provider_id=ENGINE_ID, timeout=SETTLE_TIMEOUT
                )
            except Fault as fault:
                if fault.code != "no_rpc" or time.monotonic() > deadline:
                    raise
            self._server.rest(RETRY_INTERVAL)

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

    def _restore(
        self, registry: Registry, master: str, settle: Callable[[SettleTopic], TopicChanged]
    ) -> None:
        for topic in sorted({*registry.leftovers(), *registry.adding()}):
            self._settle(topic, settle)
        served, topics = 0, 0
        for topic in registry.names():
            try:
                count = self._take_back(registry, topic, master)
                served, topics = served + count, topics + bool(count)
            except KeyNotFound:
                log.info("topic %r was deleted meanwhile", topic)
            except BadRecord as error:
                log.error("%s; its partitions are not served", error)
        if served:
            log.info("serves %s of %s again", _counted(served, "partition"), _counted(topics, "topic"))

    def _tell_of_unattached(self, own: Topics) -> None:
        """Say how partitions that the original recorded are taken over; it never serves them again by itself."""
        served = own.served() if self._unattached else set()
        file = next((each["config"].get("file") for each in self._providers if each["type"] == "flock"), None)
        group_file = "FILE" if file is None else shlex.quote(os.path.abspath(file))
        for topic, uuid in self._unattached:
            if uuid not in served:
                deployment.log.warning(
                    "topic %r, partition %s: nobody serves it; where DIR has its directory, it is attached by: "
                    "diaspora-ctl topic attach --driver mofka --driver.group_file %s --name %s --path DIR/%s",
                    topic,
                    uuid,
                    group_file,
                    shlex.quote(topic),
                    shlex.quote(f"{topic}-{uuid}"),
                )

    def _settle(self, topic: str, settle: Callable[[SettleTopic], TopicChanged]) -> None:
        asked = SettleTopic(topic, int(SETTLE_TIMEOUT * 1000), self._server.rank, self._server.address)
        try:
            changed = settle(asked)
        except (MargoError, TimeoutError) as error:
            log.warning(
                "topic %r: what an interrupted change has left is still to be removed: %s", topic, error
            )
            return
        for text in changed.warnings:
            log.warning("%s", text)
        log.info("topic %r: removed what an interrupted creation or deletion has left", topic)

    def _take_back(self, registry: Registry, topic: str, master: str) -> int:
        """Start the partitions of a topic that are of this server; return how many of them it really serves."""
        there: list[PartitionRecord] = []
        served = 0
        record = registry.load(topic)
        for partition in () if record is None else record.partitions:
            provider_id = self._running_at(topic, partition.uuid)
            if provider_id is not None:
                is_served = True
            elif partition.rank == self._server.rank:
                provider_id, is_served = self._start(topic, partition, master)
            else:
                if partition.rank is None:
                    self._unattached.append((topic, partition.uuid))
                continue
            served += is_served
            if provider_id is not None:
                there.append(replace(partition, address=self._server.address, provider_id=provider_id))
        if there:
            try:
                registry.update(topic, there)
            except StorageFault as error:
                log.error("topic %r: where its partitions are cannot be recorded: %s", topic, error)
        return served

    def _running_at(self, topic: str, uuid: str) -> int | None:
        """Return the id of the provider of a partition that is of the configuration, or has just been made."""
        if (topic, uuid) in self._configured:
            number: int = self._configured[topic, uuid]["provider_id"]
            return number
        provider = served_as_usual(self._server, topic, uuid)
        return None if provider is None else provider.provider_id

    def _start(self, topic: str, partition: PartitionRecord, master: str) -> tuple[int | None, bool]:
        """Start a partition, or else what stands for it; return its provider id, and whether it is the partition."""
        where = f"topic {topic!r}, partition {partition.uuid}"
        try:
            is_on_disk = bool(path_of(partition))
            needs = completed(partition, lambda: self._providers)
            entry = provider_entry(topic, needs, master, attach=is_on_disk)
            return self._server.start_provider(entry, "partition"), True
        except MargoError as error:
            if self._unserved.get((topic, partition.uuid)) != str(error):
                log.error("%s: cannot be opened, and is not served: %s", where, error)
            self._unserved[topic, partition.uuid] = str(error)
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


def _may_open(topic: str, partition: PartitionRecord) -> bool:
    """Tell whether it is worth while to open a partition: its directory is there, and nobody else has it open."""
    path = path_of(partition)
    if not path:
        return True
    directory = directory_of(topic, partition.uuid, path)
    if not os.path.isdir(directory):
        return False
    try:
        PosixFiles().lock_shared(os.path.join(directory, LOCK_NAME)).close()
    except PartitionLocked:
        return False
    except StorageError:
        pass  # there is no lock yet, or opening says why
    return True


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
