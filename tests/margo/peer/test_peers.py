"""Both ends of a connection against an oracle: wired by pipes that cut anywhere, without a socket or a clock."""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from mochi.margo import rpc
from mochi.margo.errors import (
    AuthenticationError,
    Fault,
    LocalProtocolError,
    MargoError,
    RemoteProtocolError,
)
from mochi.margo.peer import (
    MAX_OUTSTANDING,
    TRANSITIONS,
    Answering,
    Asking,
    Budget,
    Call,
    Delivery,
    Role,
    Seat,
    State,
    frame_of,
)
from mochi.margo.peer.states import REFUSAL, Conversation
from mochi.margo.wire import DESCRIPTORS, ONE_WAY, STAGING_SIZE, Frame, Kind, encode
from tests.margo.peer.peers_by_hand import House, answering, said, tell

TOKEN = b"t" * 32
LIMIT = 100_000
"""Bytes held for one connection before nothing more is taken from it."""

EVENTS = [*Kind, REFUSAL]


# The table


@pytest.mark.parametrize("role", Role)
def test_what_the_table_does_not_have_raises_and_names_state_event_and_whose_fault_it_is(role: Role) -> None:
    other = Role.SERVER if role is Role.CLIENT else Role.CLIENT
    for state, event in itertools.product(State, EVENTS):
        for who, error in ((role, LocalProtocolError), (other, RemoteProtocolError)):
            conversation = Conversation(role)
            conversation.enter(state)
            take = conversation.say if who is role else conversation.hear
            if event in TRANSITIONS[state][who]:
                take(event)
                assert conversation.state is TRANSITIONS[state][who][event]
                continue
            name = Kind(event).name if event else "REFUSAL"
            with pytest.raises(error, match=f"{who.value} says {name} in state {state.name}"):
                take(event)
            assert conversation.state is state


def test_every_state_is_reached_and_every_kind_of_frame_is_said_somewhere() -> None:
    reached = {State.HELLO}
    spoken: set[int] = set()
    for ends in TRANSITIONS.values():
        for following in ends.values():
            spoken |= following.keys()
            reached |= set(following.values())
    assert reached == set(State)
    assert spoken == set(EVENTS)


# The machine


class Expecting:
    """A receiver that takes note of all it is told, and takes the descriptor of every second frame that has one."""

    def __init__(self, machine: "Peers", is_stream: bool, takes: bool) -> None:
        self.machine = machine
        self.is_stream = is_stream
        self.takes = takes
        self.got: list[tuple[Kind, bytes, bytes]] = []
        self.lost_by: list[MargoError] = []

    def allocate(self, frame: Frame) -> Sequence[memoryview]:
        return [memoryview(bytearray(segment.length)) for segment in frame.segments]

    def receive(self, frame: Frame) -> None:
        assert not self.lost_by
        self.got.append((frame.kind, frame.message, b"".join(bytes(view or b"") for view in frame.bulk)))
        if frame.flags & DESCRIPTORS and self.takes:
            self.machine.taken.append(self.machine.client.take_descriptor())

    def lost(self, error: MargoError) -> None:
        self.lost_by.append(error)


class Pipe:
    """Bytes on their way, with the descriptors that go with some of them."""

    def __init__(self) -> None:
        self.raw = bytearray()
        self.passed = 0
        self.descriptors: deque[tuple[int, list[int]]] = deque()

    def put(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        if descriptors:
            self.descriptors.append((self.passed + len(self.raw), list(descriptors)))
        self.raw += data

    def take(self, size: int) -> tuple[bytes, list[int]]:
        """Return up to `size` bytes, and descriptors as the kernel hands them out: with the first byte, and alone."""
        found: list[int] = []
        if self.descriptors and self.descriptors[0][0] == self.passed:
            found = self.descriptors.popleft()[1]
        if self.descriptors:
            size = min(size, self.descriptors[0][0] - self.passed)
        data = bytes(self.raw[:size])
        del self.raw[:size]
        self.passed += len(data)
        return data, found


def put_into(buffers: Sequence[memoryview], data: bytes) -> None:
    for buffer in buffers:
        part, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(part)] = part
    assert not data


class Peers(RuleBasedStateMachine):
    """A client and a server by the rules of `mochi.margo.peer`; what each is told is compared with what was said."""

    calls = Bundle("calls")
    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.house = House(Seat(TOKEN, 0), Budget(connection=LIMIT, share=LIMIT // 2, server=LIMIT))
        self.numbers = itertools.count(100)
        self.begin(TOKEN)

    @initialize(greeted=st.sampled_from([True, True, True, False]))
    def greets(self, greeted: bool) -> None:
        while greeted and self.server.state is not State.OPEN:
            self.bytes_go_up(STAGING_SIZE)
            self.bytes_go_down(STAGING_SIZE)

    def begin(self, token: bytes) -> None:
        self.client = Asking(Seat(TOKEN, 0) if token == TOKEN else Seat(token), "here")
        self.server: Answering[Call] = answering(self.house)
        self.up, self.down = Pipe(), Pipe()
        self.refusal: MargoError | None = None
        self.failure: MargoError | None = None
        self.is_down = False
        self.handled: list[Call] = []
        self.waiting: dict[int, Call] = {}
        self.asked: dict[int, tuple[bytes, bytes, int]] = {}
        self.expecting: dict[int, Expecting] = {}
        self.expected: dict[int, list[tuple[Kind, bytes, bytes]]] = {}
        self.cancelled: set[int] = set()
        self.lent: list[int] = []
        self.taken: list[int] = []

    # What goes on between them

    def flush(self) -> None:
        def sender(pipe: Pipe) -> Callable[[Sequence[Any]], int]:
            def send(window: Sequence[Any]) -> int:
                pipe.put(b"".join(map(bytes, window)))
                return sum(map(len, window))

            return send

        self.client.queue.pump(sender(self.up))
        if not self.is_down:
            self.server.queue.pump(sender(self.down))
            while self.server.lending:
                frame, descriptors = self.server.lending.popleft()
                self.down.put(frame, descriptors)
            self.server.sent(True)

    @rule(size=st.integers(1, 3 * STAGING_SIZE))
    def bytes_go_up(self, size: int) -> None:
        self.flush()
        if self.is_down:
            return
        self.grant()
        self.server.turn()
        if self.server.reader.has_more and self.server.is_reading:
            self.serve(0)
            return
        if not self.server.is_reading:
            return
        buffers = self.server.reader.buffers()
        data, _ = self.up.take(min(size, sum(map(len, buffers))))
        if data:
            put_into(buffers, data)
            self.server.reader.received(len(data))
            self.serve(len(data))

    def serve(self, count: int) -> None:
        try:
            while (call := self.server.next_event(count)) is not None:
                assert self.server.state is State.OPEN
                assert len(self.server.calls) <= MAX_OUTSTANDING
                number = call.frame.call
                message, bulk, flags = self.asked[number]
                assert (call.frame.message, call.frame.flags) == (message, flags)
                assert b"".join(bytes(view or b"") for view in call.frame.bulk) == bulk
                self.handled.append(call)
                self.waiting[number] = call
                count = 0
        except MargoError as error:
            self.refuse(error)
        self.server.turn()

    def refuse(self, error: MargoError) -> None:
        self.refusal = error
        self.server.refuse(error)
        self.flush()
        self.close_server()

    def close_server(self) -> None:
        if not self.is_down:
            self.is_down = True
            not_sent = [each for _, descriptors in self.server.lending for each in descriptors]
            assert self.server.close() == not_sent
            assert all(call.cancelled for call in self.waiting.values())
            self.waiting.clear()

    def grant(self) -> None:
        granted, self.house.granted = self.house.granted, []
        for each in granted:
            each()

    @rule(size=st.integers(1, 3 * STAGING_SIZE))
    def bytes_go_down(self, size: int) -> None:
        self.flush()
        if self.client.state is State.CLOSED:
            return
        buffers = self.client.reader.buffers()
        data, descriptors = self.down.take(min(size, sum(map(len, buffers))))
        if not data:
            if self.is_down:
                self.client_loses()
            return
        put_into(buffers, data)
        try:
            self.client.offer(descriptors)
            self.client.reader.received(len(data))
            while (event := self.client.next_event()) is not None:
                self.deliver(event)
        except MargoError as error:
            self.failure = error
            self.client_loses()

    def deliver(self, event: Delivery) -> None:
        assert event.refused is None
        event.receiver.receive(event.frame)
        self.client.delivered(event)

    def client_loses(self) -> None:
        waited = [each for number, each in self.expecting.items() if self.is_expecting(number)]
        self.client.close()
        lost = MargoError("lost")
        while (receiver := self.client.take_receiver()) is not None:
            receiver.lost(lost)
        for each in self.expecting.values():
            assert (lost in each.lost_by) is (each in waited)
        self.close_server()
        assert not self.client.offered

    def is_expecting(self, number: int) -> bool:
        each = self.expecting[number]
        if number in self.cancelled or each.lost_by:
            return False
        return not any(kind is not Kind.NOTICE for kind, _, _ in each.got)

    # What the client does

    @property
    def is_open(self) -> bool:
        return self.client.state is State.OPEN

    @rule(token=st.sampled_from([TOKEN, b"wrong", b"w" * 32]))
    @precondition(lambda self: self.client.state is State.CLOSED or self.is_down)
    def connects_anew(self, token: bytes) -> None:
        if self.client.state is not State.CLOSED:
            self.client_loses()
        self.begin(token)

    @rule(
        target=calls,
        message=st.binary(max_size=300),
        size=st.one_of(st.just(0), st.integers(1, 2 * STAGING_SIZE)),
        one_way=st.booleans(),
        takes=st.booleans(),
    )
    def asks(self, message: bytes, size: int, one_way: bool, takes: bool) -> int:
        receiver = None if one_way else Expecting(self, is_stream=False, takes=takes)
        bulk = bytes(size)
        if not self.is_open:
            with pytest.raises(LocalProtocolError, match="REQUEST in state"):
                self.client.request("name", 1, message, receiver, bulk=[[bulk]])
            return 0
        number = self.client.request(
            "name", 1, message, receiver, bulk=[[bulk[: size // 2], bulk[size // 2 :]]]
        )
        self.asked[number] = message, bulk, ONE_WAY if one_way else 0
        if receiver is not None:
            self.expecting[number] = receiver
            self.expected[number] = []
        return number

    @rule(number=calls)
    def takes_back(self, number: int) -> None:
        if number in self.expecting:
            self.client.cancel(number)
            self.cancelled.add(number)

    @rule(target=streams)
    def opens_a_stream(self) -> int:
        receiver = Expecting(self, is_stream=True, takes=True)
        number = self.client.open_stream(receiver)
        self.expecting[number], self.expected[number] = receiver, []
        if self.client.state is State.CLOSED:  # whoever has lost the link finds it, or its owner forgets it
            assert self.client.forget(number)
            self.cancelled.add(number)
        return number

    @rule(number=streams)
    def closes_a_stream(self, number: int) -> None:
        if number in self.expecting:
            self.client.forget(number)
            self.cancelled.add(number)

    @rule(luck=st.integers(0, 15))
    def loses_the_link(self, luck: int) -> None:
        if luck == 15 and self.client.state is not State.CLOSED:
            self.client_loses()

    @rule()
    def is_forked(self) -> None:
        """The child has both ends as they are, and gives them up without a word; the parent goes on."""
        child = Asking(Seat(TOKEN, 0), "here")
        child.offered.extend([1, 2])
        child.open_stream(Expecting(self, is_stream=True, takes=True))
        child.close()
        assert child.take_receiver() is not None
        assert child.take_receiver() is None
        assert list(child.discarded) == [1, 2]
        with pytest.raises(LocalProtocolError, match="CLOSED"):
            child.request("name", 1, b"", None)

    # What the server does

    def served(self, which: int) -> Call | None:
        return list(self.waiting.values())[which % len(self.waiting)] if self.waiting else None

    @rule(
        which=st.integers(0, 1000),
        kind=st.sampled_from([Kind.RESPONSE, Kind.FAULT]),
        size=st.one_of(st.just(0), st.integers(1, 2 * STAGING_SIZE)),
        lends=st.booleans(),
        reserved=st.one_of(st.just(0), st.integers(0, LIMIT)),
    )
    def answers(self, which: int, kind: Kind, size: int, lends: bool, reserved: int) -> None:
        call = self.served(which)
        if call is None:
            return
        number = call.frame.call
        del self.waiting[number]
        message = rpc.pack_fault(Fault("f", "x" * 9)) if kind is Kind.FAULT else b"%d" % number
        bulk = [] if lends or kind is Kind.FAULT else [[bytes(size)]]
        descriptors = [next(self.numbers)] if lends and kind is Kind.RESPONSE else []
        one_way = call.frame.flags & ONE_WAY
        frame = None if one_way else frame_of(kind, number, message, bulk, descriptors)
        if reserved and self.server.reserve(reserved, lambda: self.server.release(reserved)) is None:
            call.reserved = reserved
        assert self.server.answer(call, frame, bulk, descriptors if frame else ())
        self.server.count()
        assert not self.server.answer(call, frame, bulk, ())
        if frame is not None:
            self.lent += descriptors
            self.expected[number].append((kind, message, bytes(size) if bulk else b""))

    @rule(number=streams, size=st.integers(0, 2 * STAGING_SIZE), ends=st.booleans())
    def notifies(self, number: int, size: int, ends: bool) -> None:
        """A server that knows a stream says something on it; also when the client has closed it meanwhile."""
        if self.server.state is not State.OPEN or number not in self.expected:
            return
        said_before = self.expected[number]
        if said_before and said_before[-1][0] is Kind.FAULT:
            return
        if ends:
            message = rpc.pack_fault(Fault("f", "over"))
            self.server.fail_stream(number, message)
            said_before.append((Kind.FAULT, message, b""))
            return
        bulk = bytes(size)
        self.server.notify(number, b"%d" % size, [[bulk]])
        self.server.count()
        said_before.append((Kind.NOTICE, b"%d" % size, bulk))

    @rule()
    def is_crowded(self) -> None:
        if self.server.state in (State.HELLO, State.PROOF) and not self.is_down:
            self.refuse(Fault("crowded", "too many"))

    # What always holds

    @invariant()
    def each_is_told_what_was_said_to_it_in_order_and_once(self) -> None:
        for number, receiver in self.expecting.items():
            assert receiver.got == self.expected[number][: len(receiver.got)]
            assert len(receiver.lost_by) <= 1
            if not receiver.is_stream:
                assert len(receiver.got) <= 1

    @invariant()
    def descriptors_are_taken_or_closed_and_nothing_else(self) -> None:
        seen = Counter([*self.taken, *self.client.discarded, *self.client.offered])
        assert seen <= Counter(self.lent)
        if self.client.state is State.CLOSED:
            assert not self.client.offered

    @invariant()
    def what_is_held_is_bounded_and_nothing_is_held_for_a_connection_that_is_closed(self) -> None:
        account = self.server.account
        if self.is_down:
            assert account.held == 0
            assert not self.server.queue
        else:
            assert account.requests.held >= sum(call.size for call in self.waiting.values())
            assert account.requests.held <= LIMIT + 2 * STAGING_SIZE
        assert self.house.budget.held >= 0

    @invariant()
    def who_is_let_in_has_proved_the_token_and_who_is_not_is_told_so(self) -> None:
        if self.server.state is State.OPEN:
            assert self.refusal is None
        if self.refusal is not None:
            assert self.is_down
        if isinstance(self.failure, AuthenticationError):
            assert not self.handled

    def teardown(self) -> None:
        """Let all that was said arrive; then all that was answered has been received."""
        for _ in range(10000):
            before = (self.up.passed, self.down.passed, len(self.handled), self.server.state, self.is_down)
            self.bytes_go_up(3 * STAGING_SIZE)
            while self.waiting:
                self.answers(0, Kind.RESPONSE, 0, False, 0)
            self.bytes_go_down(3 * STAGING_SIZE)
            self.each_is_told_what_was_said_to_it_in_order_and_once()
            if before == (
                self.up.passed,
                self.down.passed,
                len(self.handled),
                self.server.state,
                self.is_down,
            ):
                break
        if self.is_open and not self.is_down:
            for number, receiver in self.expecting.items():
                if number not in self.cancelled:
                    assert receiver.got == self.expected[number]
                    assert receiver.is_stream or len(receiver.got) == 1
            assert [call.frame.call for call in self.handled] == list(self.asked)
            assert sorted([*self.taken, *self.client.discarded]) == self.lent
            assert self.server.account.held == 0
            assert self.house.budget.held == 0
        if self.client.state is not State.CLOSED:
            self.client_loses()


Peers.TestCase.settings = settings(deadline=None, stateful_step_count=60)
test_both_ends_of_a_connection_do_what_the_oracle_says = Peers.TestCase


# What honest ends never say


def opened() -> tuple[Asking, Answering[Call]]:
    client, server = Asking(None, "here"), answering(House(None))
    for frame in said(client):
        tell(server, frame.kind, frame.message)
    for frame in said(server):
        tell(client, frame.kind, frame.message)
    for frame in said(client):
        tell(server, frame.kind, frame.message)
    assert client.state is server.state is State.OPEN
    return client, server


def test_a_descriptor_that_was_announced_and_did_not_come_is_the_servers_fault() -> None:
    client, _ = opened()
    number = client.request("name", 1, b"", Expecting(None, False, False))  # type: ignore[arg-type]
    with pytest.raises(RemoteProtocolError, match="announced a file descriptor that did not come"):
        tell(client, Kind.RESPONSE, b"", call=number, flags=DESCRIPTORS)


def test_descriptors_that_nothing_announces_are_the_servers_fault() -> None:
    client, _ = opened()
    client.offer(range(64))
    with pytest.raises(RemoteProtocolError, match="descriptors that belong to nothing"):
        client.offer([64])
    client.close()
    assert list(client.discarded) == list(range(65))


def test_a_descriptor_for_nobody_is_closed_and_the_next_frame_gets_its_own() -> None:
    client, _ = opened()
    client.offer([1, 2])
    receiver = Expecting(None, False, False)  # type: ignore[arg-type]
    number = client.request("name", 1, b"", receiver)
    assert tell(client, Kind.RESPONSE, b"", call=999, flags=DESCRIPTORS) is None
    event = tell(client, Kind.RESPONSE, b"", call=number, flags=DESCRIPTORS)
    assert (list(client.discarded), event.descriptor, event.is_last) == ([1], 2, True)
    assert client.take_descriptor() == 2
    client.delivered(event)
    assert list(client.discarded) == [1]
    with pytest.raises(RemoteProtocolError, match="lent a buffer without its descriptor"):
        client.take_descriptor()


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_frame_of_the_wrong_kind_for_a_call_or_a_stream_is_the_servers_fault(is_stream: bool) -> None:
    client, _ = opened()
    receiver = Expecting(None, is_stream, False)  # type: ignore[arg-type]
    number = client.open_stream(receiver) if is_stream else client.request("name", 1, b"", receiver)
    kind = Kind.RESPONSE if is_stream else Kind.NOTICE
    with pytest.raises(RemoteProtocolError, match=f"sent a {kind.name} on call {number}"):
        tell(client, kind, b"", call=number)


def test_a_call_number_that_is_in_use_is_the_clients_fault() -> None:
    _, server = opened()
    call = tell(server, Kind.REQUEST, b"", call=5)
    with pytest.raises(RemoteProtocolError, match="call number 5 is still in use"):
        tell(server, Kind.REQUEST, b"", call=5)
    assert server.answer(call, None)
    assert tell(server, Kind.REQUEST, b"", call=5).frame.call == 5


@pytest.mark.parametrize(
    "kind", [Kind.HELLO, Kind.WELCOME, Kind.PROOF, Kind.RESPONSE, Kind.FAULT, Kind.NOTICE]
)
def test_what_no_client_says_behind_the_greeting_is_its_fault(kind: Kind) -> None:
    _, server = opened()
    with pytest.raises(RemoteProtocolError, match=f"the client says {kind.name} in state OPEN"):
        tell(server, kind, b"", call=1)


def test_a_peer_is_not_read_from_while_too_much_of_it_waits_and_is_again_later() -> None:
    client, server = opened()
    calls = [tell(server, Kind.REQUEST, b"", call=number) for number in range(1, MAX_OUTSTANDING + 1)]
    assert (server.turn(), server.is_reading, server.turn()) == (False, False, None)
    assert tell(server, Kind.REQUEST, b"", call=1000) is None
    server.answer(calls[0], encode(Kind.RESPONSE, call=1))
    assert (server.turn(), server.is_reading) == (True, True)
    assert server.next_event().frame.call == 1000
    assert client.state is State.OPEN


def test_an_end_that_was_interrupted_in_a_delivery_has_its_receiver_told_of_the_loss() -> None:
    client, _ = opened()
    receiver = Expecting(None, False, False)  # type: ignore[arg-type]
    number = client.request("name", 1, b"", receiver)
    assert tell(client, Kind.RESPONSE, b"", call=number).receiver is receiver
    client.close()
    assert client.take_receiver() is receiver
    assert client.take_receiver() is None
