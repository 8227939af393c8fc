"""The servers of a service and where its partitions are, as the group file and the master database tell.

A server that is started again may have another address, and a service another token. Whoever does not find a partition
any more asks here; the group file is read again where it has changed, and the master database is looked for anew.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from diaspora_stream.errors import ConnectionFailed, DiasporaError
from mochi.bedrock.client import BedrockClient
from mochi.flock import group_file
from mochi.flock.errors import FlockError
from mochi.margo.client import Client
from mochi.margo.errors import AuthenticationError, MargoError
from mochi.mofka.client.service import CONNECT_TIMEOUT, PartitionInfo
from mochi.mofka.hosting import MASTER_TAG, master_among, partitions_among
from mochi.mofka.registry import PartitionRecord, Registry
from mochi.yokan.client import DatabaseHandle

log = logging.getLogger(__name__)


class Group:
    """The servers of one service.

    Parameters
    ----------
    client : Client
        Is told the token for each server.
    path : str
        The group file.
    patience : float
        Seconds that it is waited for if it is not there yet.

    Attributes
    ----------
    ranks : dict
        The ordinal of each server, by its address.
    servers : list of str
        Addresses of those that have not ended in good order, in the order of the file.

    Raises
    ------
    FlockError
        The file cannot be read.

    Notes
    -----
    Any thread; `reset` in a forked child.
    """

    def __init__(self, client: Client, path: str, patience: float) -> None:
        self.path = path
        self._client = client
        self._bedrock = BedrockClient(client)
        self._stamp: tuple[int, ...] = ()
        self._master: tuple[str, int] | None = None
        self.ranks: dict[str, int] = {}
        self.servers: list[str] = []
        self.reset()
        group_file.read_within(path, patience)
        self._read()

    def reset(self) -> None:
        """Begin anew in a forked child, where another thread's lock stays locked."""
        self._lock = threading.Lock()
        self._looked_up: dict[str, tuple[float, dict[str, PartitionRecord] | None]] = {}

    def _read(self) -> None:
        """Read the file, if it is another one, or has changed."""
        try:
            status = os.stat(self.path)
            stamp: tuple[int, ...] = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = ()
        if self.ranks and stamp in ((), self._stamp):
            return
        view = group_file.read(self.path)
        if view.token is not None:
            for address, rank in view.ranks.items():
                self._client.set_token(address, view.token, rank)
        self._master = None
        ended = {member.address for member in view.members if member.ended}
        self.ranks, self._stamp = view.ranks, stamp
        self.servers = [address for address in view.ranks if address not in ended]

    def refresh(self) -> None:
        """Read the group file again if it has changed; one that is gone or half there is passed over."""
        try:
            self._read()
        except FlockError as error:
            log.info("group file %s: %s", self.path, error)

    def master(self) -> tuple[str, int]:
        """Return address and provider id of the master database.

        Raises
        ------
        DiasporaError
            No server has one, or those that answer have none; says of each that does not answer why.
        """
        self.refresh()
        if self._master is None:
            self._master = self._find_master()
        return self._master

    def lose_master(self) -> None:
        """Have the master database looked for anew."""
        self._master = None

    def _find_master(self) -> tuple[str, int]:
        failures: list[str] = []
        refusal: AuthenticationError | None = None
        for address in self.ranks:
            try:
                self._client.link(address, CONNECT_TIMEOUT)
                master = master_among(self._bedrock.config(address)["providers"])
            except MargoError as error:
                failures.append(str(error))
                refusal = error if isinstance(error, AuthenticationError) else refusal
                continue
            if master is not None:
                return address, master["provider_id"]
        if refusal is not None:
            raise DiasporaError(f"group file {self.path}: {refusal}") from refusal
        if failures:
            raise ConnectionFailed(
                f"group file {self.path}: {'; '.join(failures)}; is the service running, and the file its own?"
            )
        raise DiasporaError(
            f"no server of the group in {self.path} has a yokan provider with the tag {MASTER_TAG!r}"
        )

    def registry(self) -> Registry:
        """Return the topics in the master database."""
        return Registry(DatabaseHandle(self._client, *self.master()))

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
        try:
            record = self.registry().load(topic)
        except (MargoError, DiasporaError) as error:
            log.debug("looking for the partitions of topic %r: %s", topic, error)
            self._master = None
            return None
        partitions = [] if record is None else self.placed(topic, record.partitions)
        return {partition.uuid: partition for partition in partitions}

    def placed(self, topic: str, partitions: Sequence[PartitionRecord]) -> list[PartitionRecord]:
        """Return the records of partitions with where these are now.

        A server that has moved may not have been able to record that. It is asked itself.
        """
        addresses = {rank: address for address, rank in self.ranks.items()}
        at = {
            each.uuid: addresses.get(each.rank, each.address) for each in partitions if each.rank is not None
        }
        moved = {at[each.uuid] for each in partitions if at.get(each.uuid, each.address) != each.address}
        served: dict[tuple[str, str], int] = {}
        for address in moved:
            with suppress(MargoError):
                self._client.link(address, CONNECT_TIMEOUT)
                running = partitions_among(self._bedrock.config(address)["providers"])
                served |= {(address, uuid): each["provider_id"] for (_, uuid), each in running.items()}
        return [
            replace(each, address=at[each.uuid], provider_id=served[at[each.uuid], each.uuid])
            if (at.get(each.uuid, ""), each.uuid) in served
            else each
            for each in partitions
        ]
