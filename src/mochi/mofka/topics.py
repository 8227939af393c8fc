"""Topics changed by the server that has the master database, one request of a client each; see `lifecycle`.

What a request changes is done by threads of the server, as many as there are; it calls other servers, and may block.
So nothing is left half made by a client that ends. What a server that ends leaves half made is on record, see
`registry`, and is finished or cleared away when it is back, see `restoring`.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache, partial
from typing import Any, cast

from msgspec.structs import replace

from mochi.bedrock.client import BedrockClient, ask_all
from mochi.bedrock.modules import Deployed
from mochi.bedrock.rpc import ENGINE_ID
from mochi.bedrock.spec import AUTOMATIC
from mochi.flock.provider import FlockProvider
from mochi.margo.client import Client
from mochi.margo.errors import AddressError, ConfigError, ConnectionLost, DeadlineExceeded, Fault, MargoError
from mochi.mofka.deletion import Removal, remove_here
from mochi.mofka.hosting import (
    Providers,
    completed,
    master_among,
    partitions_among,
    provider_entry,
    provider_name,
)
from mochi.mofka.lifecycle import Begin, Change, Lives, Look, State, Step, Tell, Verdict, Wish
from mochi.mofka.partition.config import check_topic_name
from mochi.mofka.protocol import (
    ADD_PARTITION,
    ATTACH_TOPIC,
    CREATE_TOPIC,
    DELETE_TOPIC,
    REMOVE,
    SETTLE_TOPIC,
    AddPartition,
    AttachTopic,
    CreateTopic,
    DeleteTopic,
    Kind,
    Place,
    Remove,
    Removed,
    SettleTopic,
    TopicChanged,
)
from mochi.mofka.registry import BadRecord, PartitionRecord, Registry
from mochi.mofka.workers import Workers
from mochi.yokan.provider import YokanProvider

log = logging.getLogger(__name__)

CHANGES = 4
"""Topics of one master database that are changed at the same time."""

START_TIMEOUT = 15.0
"""Seconds that a server has to start a partition."""

RETRY_INTERVAL = 60.0
"""Seconds after which a server that could not remove a partition is asked again."""

Asked = CreateTopic | AddPartition | AttachTopic | DeleteTopic | SettleTopic

_WISHES: dict[type[Asked], Wish] = {
    CreateTopic: Wish.CREATE,
    AddPartition: Wish.EXTEND,
    AttachTopic: Wish.EXTEND,
    DeleteTopic: Wish.DELETE,
    SettleTopic: Wish.SETTLE,
}


class Members:
    """The servers of a group, as one of them knows them, and the client to call them with."""

    def __init__(self, server: Deployed) -> None:
        self.client = Client()
        self.bedrock = BedrockClient(self.client)
        self._server = server

    def addresses(self) -> dict[int, str]:
        """Return where the members are, by rank; they can be called from then on."""
        addresses = {}
        for provider in self._server.config()["providers"]:
            if provider["type"] == "flock":
                view = cast(FlockProvider, self._server.provider(provider["name"])).view
                addresses.update({rank: address for address, rank in view.ranks.items()})
        addresses[self._server.rank] = self._server.address
        for rank, address in addresses.items():
            self.admit(address, rank)
        return addresses

    def admit(self, address: str, rank: int | None) -> None:
        """Have the token of the service used with a server."""
        token = self._server.engine.gate.token
        if token is not None:
            self.client.set_token(address, token, rank)


class Request:
    """A request on its way; compared by identity."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answer: Future[TopicChanged] = Future()
        self.deadline = time.monotonic() + asked.timeout_ms / 1000 if asked.timeout_ms else float("inf")


class Topics:
    """The topics of one master database.

    Parameters
    ----------
    database : YokanProvider
        Has the master database.
    master : str
        The same, as ``yokan:<id>@<address>``.

    Notes
    -----
    Any thread.
    """

    def __init__(self, server: Deployed, database: YokanProvider, master: str) -> None:
        self.database = database
        self.registry = Registry(database.database)
        self._server = server
        self.master = master
        self._members = Members(server)
        self._lock = threading.Lock()
        self._lives: Lives[Request] = Lives()
        self._unfinished: set[str] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._workers = Workers(CHANGES, "mofka-topics")

    def close(self) -> None:
        """Begin nothing more."""
        self._workers.close()
        self._members.client.close()

    def ask(self, asked: Asked) -> Future[TopicChanged]:
        """Take a request; its answer, or the `Fault` that it ends with, comes later."""
        request = Request(asked)
        if asked.timeout_ms:
            self._server.engine.on_loop(partial(self._await_end, request))
        self._tell_lives(lambda: self._lives.ask(asked.topic, _WISHES[type(asked)], request))
        return request.answer

    def _await_end(self, request: Request) -> None:
        loop, asked = self._server.engine.loop, request.asked

        def give_up() -> None:
            self._tell_lives(lambda: self._lives.give_up(asked.topic, request))

        timer = loop.call_later(asked.timeout_ms / 1000, give_up)
        request.answer.add_done_callback(lambda _: self._server.engine.on_loop(timer.cancel))

    def _tell_lives(self, what: Callable[[], Sequence[Step[Request]]], reason: Fault | None = None) -> None:
        with self._lock:
            steps = what()
        for step in steps:
            if isinstance(step, Tell):
                self._tell(step, reason)
            else:
                work = self._look if isinstance(step, Look) else self._change
                self._workers.put(partial(work, step))  # type: ignore[arg-type]

    def _look(self, look: Look) -> None:
        self._rest(look.topic)

    def _rest(self, topic: str) -> None:
        """Look up the state that a topic is in, for those who wait."""
        try:
            state = self.registry.state(topic)
        except Exception as error:
            fault = _fault(error)
            self._tell_lives(lambda: self._lives.lost(topic), fault)
        else:
            self._tell_lives(lambda: self._lives.found(topic, state))

    def _tell(self, tell: Tell[Request], reason: Fault | None) -> None:
        request, topic = tell.request, tell.request.asked.topic
        match tell.verdict:
            case Verdict.SETTLED:
                request.answer.set_result(TopicChanged([]))
                return
            case Verdict.EXISTS:
                fault = Fault("topic_exists", f"topic {topic!r} exists")
            case Verdict.NOT_THERE:
                fault = Fault("topic_not_found", f"there is no topic {topic!r}")
            case Verdict.TIMED_OUT:
                fault = Fault("timeout", f"topic {topic!r} was being changed by somebody else all the time")
            case Verdict.STILL_LEFT:
                fault = Fault("left", self._left_text(topic))
            case Verdict.FAILED:
                fault = reason or Fault("internal", f"topic {topic!r} cannot be looked up")
        request.answer.set_exception(fault)

    def _left_text(self, topic: str) -> str:
        left = self.registry.partitions(topic, readable_only=True)
        where = ", ".join(sorted({partition.address for partition in left}))
        return (
            f"topic {topic!r}: what an interrupted creation or deletion has left of it cannot be removed yet at "
            f"{where}; it goes when the servers concerned start again"
        )

    def _change(self, begin: Begin[Request]) -> None:
        """Make a change to its end, whatever happens; then look what it has come to."""
        request, topic = begin.request, begin.topic
        changes: dict[Change, Callable[[Any], TopicChanged]] = {
            Change.MAKING: self._make,
            Change.EXTENDING: self._attach if isinstance(request.asked, AttachTopic) else self._extend,
            Change.DELETING: self._delete,
            Change.CLEARING: self._clear,
        }
        goes_on = begin.change is Change.CLEARING and isinstance(request.asked, CreateTopic)
        outcome: TopicChanged | Fault
        try:
            if time.monotonic() > request.deadline:
                raise Fault("timeout", f"the change of topic {topic!r} could not be begun in time")
            outcome = changes[begin.change](request.asked)
        except Exception as error:
            outcome = _fault(error)
            if outcome.code == "internal":
                log.exception("topic %r: %s", topic, begin.change.value)
        self._rest(topic)
        if goes_on:
            return
        if isinstance(outcome, Fault):
            request.answer.set_exception(outcome)
            return
        request.answer.set_result(outcome)
        if not isinstance(request.asked, SettleTopic):
            self._try_again()

    def _note_unfinished(self, topic: str) -> None:
        """Have what is left of a topic cleared away with the next change of any, or after a while."""
        self._unfinished.add(topic)
        self._server.engine.on_loop(self._await_retry)

    def _await_retry(self) -> None:
        def retry() -> None:
            self._retry = None
            self._try_again()

        if self._retry is None:
            self._retry = self._server.engine.loop.call_later(RETRY_INTERVAL, retry)

    def _try_again(self) -> None:
        """Clear away what could not be."""
        for topic in list(self._unfinished):
            self._unfinished.discard(topic)
            self.ask(SettleTopic(topic, 0, self._server.rank, self._server.address))

    def _make(self, asked: CreateTopic) -> TopicChanged:
        check_topic_name(asked.topic, asked.kind.type)
        addresses = self._members.addresses()
        planned = [_planned(place, asked.kind, addresses) for place in asked.places]
        topic = asked.topic
        self.registry.reserve(topic, planned)
        providers = cache(self._providers)
        started: list[PartitionRecord] = []
        try:
            for each in planned:
                started.append(each)
                try:
                    started[-1] = self._start(topic, each, providers)
                except AddressError:
                    started.pop()  # nobody was there to start it
                    raise
            self.registry.update(topic, started)
            self.registry.publish(topic, [asked.validator, asked.selector, asked.serializer])
        except BaseException:
            removal = self._removal()

            def undo() -> None:
                self.registry.forget(topic, [each.uuid for each in planned[len(started) :]])
                removal.clear(self.registry, topic, started)

            self._take_back(undo, topic, removal)
            raise
        return TopicChanged([])

    def _take_back(self, undo: Callable[[], None], topic: str, removal: Removal) -> None:
        """Undo a change; what cannot be undone is on record."""
        try:
            undo()
        except MargoError as error:
            removal.left["its record"] = error
        if removal.left:
            self._note_unfinished(topic)
        for text in removal.kept:
            log.warning("%s", text)
        for what, reason in removal.left.items():
            log.error("topic %r could not be changed, and %s not be undone: %s", topic, what, reason)

    def _extend(self, asked: AddPartition) -> TopicChanged:
        topic = asked.topic
        check_topic_name(topic, asked.kind.type)
        removal = self._removal()
        self._clear_added(topic, removal)
        if removal.left:
            raise Fault("left", f"topic {topic!r}: {next(iter(removal.left.values()))}")
        if any(partition.uuid == asked.place.uuid for partition in self.registry.partitions(topic)):
            return TopicChanged([])
        planned = _planned(asked.place, asked.kind, self._members.addresses())
        self.registry.begin_adding(topic, planned)
        try:
            self.registry.add_partition(topic, self._start(topic, planned, self._providers))
            self.registry.end_adding(topic)
        except BaseException:
            self._take_back(lambda: self._clear_added(topic, removal), topic, removal)
            raise
        return TopicChanged([])

    def _attach(self, asked: AttachTopic) -> TopicChanged:
        """Have partitions served that nobody serves; those that can be are on record then, the others are as before."""
        topic, addresses = asked.topic, self._members.addresses()
        address = addresses.get(asked.rank, asked.address)
        self._members.admit(address, asked.rank)
        served = self.served()
        unserved = [
            each
            for each in self.registry.partitions(topic)
            if each.rank is None and each.uuid not in served and asked.uuid in ("", each.uuid)
        ]
        if not unserved:
            which = f"has no partition {asked.uuid}" if asked.uuid else "has no partition"
            raise Fault("attach", f"topic {topic!r} {which} that nobody serves")
        problems: list[str] = []
        for each in unserved:
            record = replace(
                each, address=address, rank=asked.rank, type="default", partition={"path": asked.path}
            )
            try:
                started = self._start(topic, record, self._providers, attach=True)
            except MargoError as error:
                problems.append(f"partition {each.uuid} is not attached: {error}")
                continue
            try:
                self.registry.attach(topic, [started])
            except BaseException:
                self._members.bedrock.stop_provider(address, provider_name(topic, each.uuid))
                raise
        if len(problems) == len(unserved):
            raise Fault("attach", "; ".join(problems))
        return TopicChanged(problems)

    def served(self) -> set[str]:
        """Return the uuids of the partitions that servers of this service serve, as far as they answer."""
        addresses = self._members.addresses().values()
        return {
            uuid
            for answer in ask_all(addresses, self._providers).values()
            if not isinstance(answer, MargoError)
            for _, uuid in partitions_among(answer)
        }

    def _clear_added(self, topic: str, removal: Removal) -> None:
        """Remove a partition whose addition was cut short; it stays on record if that cannot be."""
        partition = self.registry.being_added(topic)
        if partition is None or removal.remove(topic, partition):
            self.registry.end_adding(topic)

    def _delete(self, asked: DeleteTopic) -> TopicChanged:
        self.registry.withdraw(asked.topic)
        return self._clear(asked)

    def _clear(self, asked: Asked) -> TopicChanged:
        """Remove what is left of a topic that is not there (any more), and a partition that is no part of one."""
        topic, removal = asked.topic, self._removal()
        if isinstance(asked, SettleTopic):
            removal = self._removal({asked.rank: asked.address})
        try:
            self._clear_added(topic, removal)
        finally:
            if self.registry.state(topic) is State.LEFT:
                removal.clear(self.registry, topic, self.registry.partitions(topic, readable_only=True))
        warnings = removal.kept
        if removal.left:
            self._note_unfinished(topic)
        for uuid, reason in removal.left.items():
            problem = f"topic {topic!r} is deleted, but what is stored of partition {uuid} not yet: {reason}"
            if isinstance(reason, Fault):
                raise Fault("storage", f"{problem}; delete it again, or start that server again")
            warnings.append(f"{problem}; it is removed when that server starts again")
        return TopicChanged(warnings)

    def _removal(self, moved: Mapping[int, str] = {}) -> Removal:
        addresses = {**self._members.addresses(), **moved}

        def address_of(partition: PartitionRecord) -> str:
            address = partition.address
            if partition.rank is not None:
                address = addresses.get(partition.rank, address)
            self._members.admit(address, partition.rank)
            return address

        return Removal(self._members.client, address_of)

    def _providers(self, address: str) -> Providers:
        providers: Providers = self._members.bedrock.config(address, timeout=START_TIMEOUT)["providers"]
        return providers

    def _start(
        self,
        topic: str,
        partition: PartitionRecord,
        providers: Callable[[str], Providers],
        *,
        attach: bool = False,
    ) -> PartitionRecord:
        """Start a partition at its server; return its record."""
        address = partition.address
        self._members.admit(address, partition.rank)
        try:
            needs = completed(partition, lambda: providers(address))
        except ConfigError as error:
            raise ConfigError(error.where, f"{error.problem} ({address})") from error
        entry = provider_entry(topic, needs, self.master, attach=attach)
        number = self._members.bedrock.start_provider(address, entry, timeout=START_TIMEOUT)
        return replace(partition, provider_id=number)


def _planned(place: Place, kind: Kind, addresses: dict[int, str]) -> PartitionRecord:
    address = addresses.get(place.rank, place.address)
    return PartitionRecord(
        address, AUTOMATIC, place.uuid, place.rank, kind.type, kind.partition, kind.dependencies
    )


def _fault(error: Exception) -> Fault:
    """Return what tells whoever asked of an error."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, ConfigError):
        return Fault("config", str(error), {"where": error.where, "problem": error.problem})
    if isinstance(error, AddressError | ConnectionLost | DeadlineExceeded):
        return Fault("unreachable", str(error))
    if isinstance(error, BadRecord):
        return Fault("bad_record", str(error))
    return Fault("internal", f"{type(error).__name__}: {error}")


class TopicServer:
    """The RPCs by which topics are changed: any server removes partitions, that of the master database the rest."""

    def __init__(self, server: Deployed) -> None:
        self._server = server
        self._topics: Topics | None = None
        self._lock = threading.Lock()
        self._removing = Workers(1, "mofka-removal")
        engine = server.engine

        def ask(asked: Asked) -> TopicChanged | Future[TopicChanged]:
            topics = self.topics()
            if topics is None:
                raise Fault("no_master", f"the server at {server.address} does not have the master database")
            return topics.ask(asked)

        def remove(asked: Remove) -> Removed | Future[Removed]:
            return self._removing.submit(lambda: Removed(remove_here(server, asked)))

        engine.define(CREATE_TOPIC, ENGINE_ID, CreateTopic, ask)
        engine.define(ADD_PARTITION, ENGINE_ID, AddPartition, ask)
        engine.define(ATTACH_TOPIC, ENGINE_ID, AttachTopic, ask)
        engine.define(DELETE_TOPIC, ENGINE_ID, DeleteTopic, ask)
        engine.define(SETTLE_TOPIC, ENGINE_ID, SettleTopic, ask)
        engine.define(REMOVE, ENGINE_ID, Remove, remove)
        engine.on_finalize.append(self._close)

    def topics(self) -> Topics | None:
        """Return the topics of the master database of this server, if it has one; of several, the first."""
        with self._lock:
            master = master_among(self._server.config()["providers"])
            if master is None:
                return None
            provider = cast(YokanProvider, self._server.provider(master["name"]))
            if self._topics is None or self._topics.database is not provider:
                self._close_topics()
                name = f"yokan:{master['provider_id']}@{self._server.address}"
                self._topics = Topics(self._server, provider, name)
            return self._topics

    def _close_topics(self) -> None:
        if self._topics is not None:
            self._topics.close()
            self._topics = None

    def _close(self) -> None:
        self._removing.close()
        self._close_topics()
