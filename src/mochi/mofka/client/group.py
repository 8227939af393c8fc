"""The servers of a service and where its partitions are, as the group file, the members and the master database tell.

A server that is started again may have another address, and a service another token. Whoever does not find a
partition any more asks here. The group file is read again where it has changed. The master database is looked for
anew, at all members side by side. Members that answer are asked for their view of the group where others do not.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from msgspec.structs import replace

from diaspora_stream.errors import ConnectionFailed, DiasporaError
from mochi.bedrock.client import BedrockClient
from mochi.flock import group_file
from mochi.flock.client import FlockClient
from mochi.flock.errors import FlockError
from mochi.flock.group_file import GroupView, Member
from mochi.margo.asking import answers
from mochi.margo.client import PATIENCE
from mochi.margo.errors import AuthenticationError, ConnectionLost, MargoError
from mochi.margo.owned_lock import OwnedLock
from mochi.mofka.client.core.search_state import CONNECT_TIMEOUT, FIRST_PAUSE, LONGEST_PAUSE
from mochi.mofka.client.members import Choice, Members
from mochi.mofka.client.refusals import PartitionInfo, is_away
from mochi.mofka.client.service import Service
from mochi.mofka.hosting import MASTER_TAG, master_among, partitions_among
from mochi.mofka.registry import PartitionRecord, Registry, TopicRecord
from mochi.yokan.handle import DatabaseHandle

T = TypeVar("T")

log = logging.getLogger(__name__)

SHORTEST_LOOK = 0.25
"""Seconds that servers have to answer when the time-out is nearly over."""


class Group:
    """The servers of one service.

    Parameters
    ----------
    service : Service
        Its client is told the token for each server; its time-out is that of whoever waits here.
    path : str
        The group file.
    patience : float
        Seconds that it is waited for if it is not there yet.

    Attributes
    ----------
    problem : str or None
        Why nobody could tell where a partition is when that was asked last.

    Raises
    ------
    FlockError
        The file cannot be read.

    Notes
    -----
    Any thread; `reset` in a forked child.
    """

    def __init__(self, service: Service, path: str, patience: float) -> None:
        self.path = path
        self._service = service
        self._bedrock = BedrockClient(service.client)
        self._stamp: tuple[int, ...] = ()
        self._token: bytes | None = None
        self._master: tuple[str, int] | None = None
        self.problem: str | None = None
        self.reset()
        self._know(group_file.read_within(path, patience))

    def reset(self) -> None:
        """Begin anew in a forked child, where another thread's lock stays locked."""
        self._lock = OwnedLock()
        self._looked_up: dict[str, tuple[float, dict[str, PartitionRecord] | None]] = {}

    @property
    def ranks(self) -> dict[str, int]:
        """The ordinal of each server, by its address."""
        return {member.address: member.rank or 0 for member in self._members.present}

    @property
    def servers(self) -> list[str]:
        """Addresses of the servers that have not ended; partitions are spread over them in this order."""
        return [member.address for member in self._members.present if not member.ended]

    def _know(self, view: GroupView) -> None:
        self._members, self._token, self._master = Members(view), view.token, None
        self._set_tokens()

    def _set_tokens(self) -> None:
        if self._token is not None:
            for member in self._members.addresses:
                self._service.client.set_token(member.address, self._token, member.rank)

    def refresh(self) -> None:
        """Read the group file again if it has changed; one that is gone or half there is passed over."""
        try:
            status = os.stat(self.path)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._know(group_file.read(self.path))
                self._stamp = stamp
        except (OSError, FlockError) as error:
            log.info("group file %s: %s", self.path, error)

    def ask_for_view(self) -> None:
        """Learn from the server of the master database who the members are now, if it tells."""
        address, _ = self.master()
        self._ask_for_views([member for member in self._members.present if member.address == address])

    def _ask_for_views(self, members: list[Member]) -> bool:
        """Learn from members who the members are now; return whether one may be where nobody knew."""
        providers = {member.address: member.provider_id for member in members}
        flock = FlockClient(self._service.client)

        def view_of(address: str) -> GroupView:
            return flock.view(address, providers[address], timeout=CONNECT_TIMEOUT)

        told = [view for _, view in answers(list(providers), view_of) if isinstance(view, GroupView)]
        is_new = bool(told) and self._members.told(told)
        if is_new:
            self._set_tokens()
        return is_new

    def master(self) -> tuple[str, int]:
        """Return address and provider id of the master database; waits for its server until the driver's time-out.

        Raises
        ------
        DiasporaError
            No server has one, or those that answer have none; says of each that does not answer why.
        """
        return self.ask(lambda master: master)

    def read(self, question: Callable[[Registry], T]) -> T:
        """Ask the master database as `ask` does."""
        return self.ask(lambda master: question(self._registry_at(master)))

    def load(self, topic: str) -> TopicRecord | None:
        """Return what the master database records of a topic, None if there is none of this name; errors as `read`."""
        return self._introduced(self.read(lambda registry: registry.load(topic)))

    def _introduced(self, record: TopicRecord | None) -> TopicRecord | None:
        """Know the servers of a topic: one that has moved may stand there before the group file says so, or not yet.

        And another way to each: in a copy of the group file, addresses may be those of a tunnel.
        """
        if record is not None and self._token is not None:
            for partition in record.partitions:
                via = self._members.written(partition.rank)
                self._service.client.set_token(partition.address, self._token, partition.rank, via=via)
        return None if record is None else replace(record, partitions=self._placed(record.partitions))

    def ask(self, question: Callable[[tuple[str, int]], T]) -> T:
        """Ask the server of the master database, again and again while it is away, until the driver's time-out.

        Parameters
        ----------
        question : callable
            Is given address and provider id of the database; may be called several times.

        Raises
        ------
        DiasporaError, MargoError
            What `question` raises, or `master`.
        """
        pause, began = FIRST_PAUSE, time.monotonic()
        deadline = began + self._service.timeout
        is_told = False
        while True:
            reason: DiasporaError | MargoError | None
            self._service.check_open()
            self.refresh()
            left = deadline - time.monotonic()
            master, reason = self._find_master(max(min(left, CONNECT_TIMEOUT), SHORTEST_LOOK))
            if master is not None:
                try:
                    found = question(master)
                except MargoError as error:
                    if not is_away(error):
                        raise
                    self._master, reason = None, error
                else:
                    if is_told:
                        log.warning("the master database answers after %.1f s", time.monotonic() - began)
                    return found
            assert reason is not None
            waited, left = time.monotonic() - began, deadline - time.monotonic()
            # Who refuses us, or has no database, may be at its start; for as long as a server has to answer.
            is_starting = isinstance(reason, MargoError | ConnectionFailed) or waited < CONNECT_TIMEOUT
            if left <= pause or not is_starting:  # a look without time for an answer would hide the reason
                raise reason
            if not is_told and waited >= PATIENCE:
                is_told = True
                log.warning("waiting for the master database since %.0f s: %s", waited, reason)
            with suppress(ConnectionLost):  # the driver was closed
                self._service.rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _find_master(self, patience: float) -> tuple[tuple[str, int] | None, DiasporaError | None]:
        """Return where the master database is, asking all members side by side if that is not known; or why not.

        Members that answer are asked where others may be. An error other than `ConnectionFailed` is that of somebody
        who answers, and refuses or has no database.
        """
        if self._master is not None:
            return self._master, None
        is_new = True
        while is_new:
            self._master, living, failures = self._ask_members(patience)
            if self._master is not None:
                return self._master, None
            is_new = bool(living and failures) and self._ask_for_views(living)
        if not failures:
            return None, DiasporaError(
                f"no server of the group in {self.path} has a yokan provider with the tag {MASTER_TAG!r}"
            )
        for error in failures:
            if isinstance(error, AuthenticationError) and not living:
                return None, DiasporaError(f"group file {self.path}: {error}")
        problem = "; ".join(map(str, failures))
        return None, ConnectionFailed(
            f"group file {self.path}: {problem}; is the service running, and the file its own?"
        )

    def _ask_members(self, patience: float) -> tuple[tuple[str, int] | None, list[Member], list[MargoError]]:
        """Return where the master database is, who else has answered, and why the others have not."""
        members = self._members
        asked = {member.address: member for member in members.addresses}
        choice = Choice(list(asked.values()), members.silent)
        living: list[Member] = []
        failures: list[MargoError] = []

        def master_at(address: str) -> int | None:
            self._service.client.link(address, patience)
            provider = master_among(self._bedrock.config(address, timeout=patience)["providers"])
            return None if provider is None else int(provider["provider_id"])

        for address, outcome in answers(list(asked), master_at):
            if isinstance(outcome, MargoError):
                failures.append(outcome)
                members.missed(asked[address])
                choice.answered(address, None)
            else:
                living.append(asked[address])
                members.heard(asked[address])
                choice.answered(address, outcome)
            if choice.master is not None:
                break
        return choice.master, living, failures

    def registry(self) -> Registry:
        """Return the topics in the master database, see `master`."""
        return self._registry_at(self.master())

    def _registry_at(self, master: tuple[str, int]) -> Registry:
        return Registry(DatabaseHandle(self._service.client, *master))

    def locate(self, topic: str, partition: PartitionInfo) -> PartitionInfo:
        """Return where a partition is now, by its uuid; `partition` itself if nobody can tell.

        Threads that ask at the same time share an answer.

        Raises
        ------
        DiasporaError
            The service knows the topic no more, or the topic the partition.
        """
        began = time.monotonic()
        with self._lock:
            when, found = self._looked_up.get(topic, (0.0, None))
            if when < began:
                found = self._look_up(topic)
                self._looked_up[topic] = (time.monotonic(), found)
        if found is None:
            return partition
        if partition.uuid not in found:
            raise DiasporaError(f"topic {topic!r} has no {partition} any more")
        moved = found[partition.uuid]
        return PartitionInfo(partition.index, moved.address, moved.provider_id, partition.uuid)

    def _look_up(self, topic: str) -> dict[str, PartitionRecord] | None:
        """Return the partitions of a topic by their uuids, none if there is no such topic; None if nobody can tell."""
        self.refresh()
        master, problem = self._find_master(CONNECT_TIMEOUT)
        self.problem = None if problem is None else str(problem)
        if master is None:
            return None
        try:
            record = self._introduced(self._registry_at(master).load(topic))
        except MargoError as error:
            self._master, self.problem = None, str(error)
            return None
        return {} if record is None else {partition.uuid: partition for partition in record.partitions}

    def _placed(self, partitions: Sequence[PartitionRecord]) -> list[PartitionRecord]:
        """Return the records of partitions with where these are now.

        A server that has moved may not have been able to record that, and is asked where nobody answers at its record.
        """
        addresses = {rank: address for address, rank in self.ranks.items()}
        now_at = {
            (each.rank, each.address): addresses[each.rank]
            for each in partitions
            if each.rank in addresses and each.address != addresses[each.rank]
        }
        served: dict[str, tuple[str, int]] = {}
        for (_, old), new in now_at.items():
            for address in (old, new):
                try:
                    running = partitions_among(
                        self._bedrock.config(address, timeout=CONNECT_TIMEOUT)["providers"]
                    )
                except MargoError:
                    continue
                served |= {uuid: (address, each["provider_id"]) for (_, uuid), each in running.items()}
                break
        return [
            replace(each, address=served[each.uuid][0], provider_id=served[each.uuid][1])
            if (each.rank, each.address) in now_at and each.uuid in served
            else each
            for each in partitions
        ]
