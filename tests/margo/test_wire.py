"""The wire format, without a socket: frames survive any split of the bytes, and no bytes do harm."""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mochi.margo.errors import ProtocolError
from mochi.margo.wire import (
    GREETING_LIMITS,
    HEAD,
    MAX_MESSAGE,
    MAX_SEGMENTS,
    REMOTE,
    SEGMENT,
    SKIPPABLE,
    STAGING_SIZE,
    Frame,
    FrameReader,
    Kind,
    Limits,
    Segment,
    SendQueue,
    allocate_private,
    encode,
    keys_of,
)

numbers = st.integers(0, 2**32 - 2)
sizes = st.one_of(st.integers(0, 40), st.integers(0, 3 * STAGING_SIZE))
segments = st.lists(st.tuples(sizes, st.one_of(st.just(0), numbers), st.integers(0, 2**40)), max_size=4)
specs = st.tuples(
    st.sampled_from(list(Kind)),
    st.integers(0, 2**16 - 1),
    numbers,
    st.integers(0, 2**64 - 1),
    numbers,
    sizes,
    st.dictionaries(st.integers(0, 2**16 - 1), st.binary(max_size=50), max_size=3),
    segments,
)


def content(size: int, seed: int) -> bytes:
    return bytes((seed + i) % 251 for i in range(min(size, 251))) * (size // 251 + 1)


def build(spec: Any) -> tuple[bytes, list[bytes]]:
    kind, provider_id, rpc, call, timeout_ms, message_size, extensions, parts = spec
    bulk = [content(size, 7 * n)[:size] for n, (size, lease, _) in enumerate(parts) if not lease]
    head = encode(
        kind,
        call=call,
        rpc=rpc,
        provider_id=provider_id,
        timeout_ms=timeout_ms,
        message=content(message_size, 3)[:message_size],
        segments=[Segment(size, lease, offset) for size, lease, offset in parts],
        extensions=extensions.items(),
    )
    return b"".join([head, *bulk]), bulk


def frames_of(reader: FrameReader, count: int) -> Iterator[Frame]:
    reader.received(count)
    yield from iter(reader.next_frame, None)


def feed(
    reader: FrameReader,
    stream: bytes,
    cuts: Iterator[int],
    received: Callable[[FrameReader, int], Iterator[Frame]] = frames_of,
) -> Iterator[Frame]:
    """Give `stream` to the reader as a socket would, in pieces of the sizes `cuts`."""
    at = 0
    while at < len(stream):
        buffers = reader.buffers()
        assert buffers
        assert all(len(buffer) for buffer in buffers)
        piece = min(next(cuts), sum(map(len, buffers)), len(stream) - at)
        left = stream[at : at + piece]
        for buffer in buffers:
            buffer[: len(left)] = left[: len(buffer)]
            left = left[len(buffer) :]
        at += piece
        yield from received(reader, piece)


def whole() -> Iterator[int]:
    while True:
        yield 1 << 30


def repeated(pieces: Sequence[int]) -> Iterator[int]:
    while True:
        yield from pieces


def read(stream: bytes, allocate: Callable[[Frame], Any] = allocate_private, **limits: int) -> list[Frame]:
    return list(feed(FrameReader(allocate, Limits(**limits)), stream, whole()))


@settings(max_examples=150, deadline=None)
@given(st.lists(specs, min_size=1, max_size=5), st.lists(st.integers(1, 20000), min_size=1, max_size=8))
def test_frames_survive_any_split_of_the_stream(frames: list[Any], pieces: list[int]) -> None:
    built = [build(spec) for spec in frames]
    stream = b"".join(data for data, _ in built)
    got = list(feed(FrameReader(allocate_private, Limits()), stream, repeated(pieces)))
    assert len(got) == len(frames)
    for frame, spec, (_, bulk) in zip(got, frames, built, strict=True):
        kind, provider_id, rpc, call, timeout_ms, message_size, extensions, parts = spec
        assert (frame.kind, frame.provider_id, frame.rpc) == (kind, provider_id, rpc)
        assert (frame.call, frame.timeout_ms, frame.refused) == (call, timeout_ms, None)
        assert frame.message == content(message_size, 3)[:message_size]
        assert frame.extensions == extensions
        assert frame.segments == [Segment(*part) for part in parts]
        assert [bytes(view) for view in frame.bulk if view is not None] == bulk
        assert [view is None for view in frame.bulk] == [bool(lease) for _, lease, _ in parts]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(specs, min_size=1, max_size=5),
    st.lists(st.integers(1, 60000), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=1),
)
def test_frames_survive_waits_for_memory_and_none_is_taken_before_its_time(
    frames: list[Any], pieces: list[int], answers: list[bool]
) -> None:
    asked: list[int] = []
    admitted = 0

    def admit(size: int) -> bool:
        nonlocal admitted
        asked.append(size)
        assert size > STAGING_SIZE
        if answers[len(asked) % len(answers)]:
            admitted += size
            return True
        return False

    def allocate(frame: Frame) -> list[memoryview]:
        size = sum(segment.length for segment in frame.segments if not segment.lease)
        assert size <= STAGING_SIZE or size <= admitted
        return allocate_private(frame)

    def received(reader: FrameReader, count: int) -> Iterator[Frame]:
        nonlocal admitted
        yield from frames_of(reader, count)
        while reader.held_up:
            assert not reader.has_more
            admitted += asked[-1]
            reader.go_on()
            yield from iter(reader.next_frame, None)

    reader = FrameReader(allocate, Limits(), admit)
    stream = b"".join(build(spec)[0] for spec in frames)
    waiting = FrameReader(allocate_private, Limits())
    expected = list(feed(waiting, stream, whole()))
    got = list(feed(reader, stream, repeated(pieces), received))
    assert got == expected
    assert not reader.is_amid


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 6), st.integers(1, 64))
def test_any_bytes_give_frames_or_a_protocol_error(noise: bytes, prefix: int, piece: int) -> None:
    stream = encode(Kind.REQUEST, call=1, message=b"x")[: 8 * prefix] + noise
    reader = FrameReader(allocate_private, GREETING_LIMITS)
    try:
        for frame in feed(reader, stream, repeated([piece])):
            assert frame.kind in Kind
    except ProtocolError:
        return
    assert sum(map(len, reader.buffers())) <= STAGING_SIZE


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_frame_with_damaged_bytes_gives_frames_or_a_protocol_error(data: st.DataObject) -> None:
    stream = bytearray(build((Kind.REQUEST, 1, 2, 3, 4, 20, {5: b"five"}, [(10, 0, 0), (5, 9, 1)]))[0] * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    held = []

    def allocate(frame: Frame) -> list[memoryview]:
        held.append(sum(segment.length for segment in frame.segments))
        return allocate_private(frame)

    reader = FrameReader(allocate, Limits(message=4096, extensions=4096, segment=4096))
    with suppress(ProtocolError):
        list(feed(reader, bytes(stream), whole()))
    assert all(size <= MAX_SEGMENTS * 4096 for size in held)


@pytest.mark.parametrize(
    ("at", "layout", "value", "problem"),
    [
        (0, "<4s", b"HTTP", "starts with"),
        (4, "<B", 77, "unknown frame kind 77"),
        (12, "<I", 4097, "a message of 4097 bytes, at most 4096"),
        (24, "<I", 4097, "extensions of 4097 bytes, at most 4096"),
        (28, "<H", MAX_SEGMENTS + 1, "17 bulk segments, at most 16"),
        (30, "<H", 1, "reserved"),
        (36, "<I", 1, "reserved"),
    ],
)
def test_a_head_beyond_the_limits_is_refused_before_memory_is_taken(
    at: int, layout: str, value: object, problem: str
) -> None:
    head = bytearray(encode(Kind.HELLO))
    struct.pack_into(layout, head, at, value)
    reader = FrameReader(allocate_private, GREETING_LIMITS)
    with pytest.raises(ProtocolError, match=problem):
        list(feed(reader, bytes(head), whole()))


def test_a_segment_beyond_the_limit_is_refused_before_memory_is_taken() -> None:
    stream = encode(Kind.REQUEST, segments=[Segment(101)])
    with pytest.raises(ProtocolError, match="bulk segment of 101 bytes, at most 100"):
        read(stream, lambda frame: pytest.fail("asked for memory"), segment=100)


@pytest.mark.parametrize("raw", [b"\0\0\0", struct.pack("<HHI", 1, 0, 5) + b"four"])
def test_extensions_that_do_not_fill_their_space_are_refused(raw: bytes) -> None:
    head = bytearray(encode(Kind.HELLO))
    struct.pack_into("<I", head, 24, len(raw))
    with pytest.raises(ProtocolError, match="extension"):
        read(bytes(head) + raw)


def test_reserved_bytes_of_a_segment_record_are_zero() -> None:
    stream = bytearray(encode(Kind.REQUEST, segments=[Segment(0)]))
    stream[HEAD.size + 12] = 1
    with pytest.raises(ProtocolError, match="reserved"):
        read(bytes(stream))


def test_too_long_a_message_and_too_many_segments_are_refused_by_the_sender() -> None:
    with pytest.raises(ProtocolError, match="at most 16777216 may be sent"):
        encode(Kind.REQUEST, message=bytes(MAX_MESSAGE + 1))
    with pytest.raises(ProtocolError, match="17 bulk segments"):
        encode(Kind.REQUEST, segments=[Segment(0)] * 17)


def test_the_largest_message_is_received_whatever_its_pieces() -> None:
    stream = encode(Kind.REQUEST, message=content(MAX_MESSAGE, 0)[:MAX_MESSAGE])
    (frame,) = feed(FrameReader(allocate_private, Limits()), stream, repeated([1, 65537]))
    assert len(frame.message) == MAX_MESSAGE


@pytest.mark.parametrize("size", [1, STAGING_SIZE - 1, 3 * STAGING_SIZE])
def test_refused_bulk_is_passed_over_and_the_next_frame_read(size: int) -> None:
    refusal = KeyError("no room")

    def allocate(frame: Frame) -> list[memoryview]:
        if frame.call == 1:
            raise refusal
        return allocate_private(frame)

    first = encode(Kind.REQUEST, call=1, segments=[Segment(size), Segment(4, lease=9)]) + bytes(size)
    second = encode(Kind.REQUEST, call=2, segments=[Segment(3)]) + b"abc"
    for pieces in ([1 << 30], [7], [size + 60]):
        got = list(feed(FrameReader(allocate, Limits()), first + second, repeated(pieces)))
        assert [frame.refused for frame in got] == [refusal, None]
        assert got[0].bulk == [None, None]
        assert got[1].bulk[0] == b"abc"


@pytest.mark.parametrize("memory", [[], [2, 5], [7, 1], [3, 4, 5]])
def test_memory_of_the_wrong_size_refuses_the_bulk(memory: list[int]) -> None:
    stream = encode(Kind.REQUEST, segments=[Segment(3), Segment(4)]) + b"abcdefg" + encode(Kind.CANCEL)
    got = read(stream, lambda frame: [memoryview(bytearray(size)) for size in memory])
    assert [frame.kind for frame in got] == [Kind.REQUEST, Kind.CANCEL]
    assert isinstance(got[0].refused, ProtocolError)


def test_a_skippable_frame_of_unknown_kind_is_skipped() -> None:
    odd = bytearray(encode(Kind.HELLO, flags=SKIPPABLE, message=b"news", extensions=[(1, b"x")]))
    odd[4] = 200
    got = list(
        feed(FrameReader(allocate_private), bytes(odd) + encode(Kind.CANCEL, call=5), repeated([3])),
    )
    assert [frame.call for frame in got] == [5]


def test_a_skippable_frame_of_unknown_kind_carries_no_bulk() -> None:
    odd = bytearray(encode(Kind.HELLO, flags=SKIPPABLE, segments=[Segment(1)]))
    odd[4] = 200
    with pytest.raises(ProtocolError, match="unknown frame kind 200"):
        read(bytes(odd))


def test_new_limits_hold_for_the_next_frame_of_the_same_bytes() -> None:
    reader = FrameReader(allocate_private, GREETING_LIMITS)
    stream = (
        encode(Kind.PROOF) + encode(Kind.REQUEST, message=bytes(5000), segments=[Segment(10)]) + bytes(10)
    )
    kinds = []
    for frame in feed(reader, stream, whole()):
        kinds.append(frame.kind)
        reader.limits = Limits()
    assert kinds == [Kind.PROOF, Kind.REQUEST]


def test_bulk_beyond_the_first_bytes_is_received_in_place() -> None:
    size = 10 * STAGING_SIZE
    target = memoryview(bytearray(size))
    stream = encode(Kind.REQUEST, segments=[Segment(size)]) + content(size, 1)[:size]
    reader = FrameReader(lambda frame: [target], Limits())
    steps = feed(reader, stream, repeated([STAGING_SIZE]))
    (frame,) = steps
    assert frame.bulk[0] is target
    assert target == content(size, 1)[:size]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=40), max_size=1200),
    st.lists(st.one_of(st.none(), st.integers(1, 500)), min_size=1, max_size=20).filter(any),
)
def test_a_send_queue_sends_every_byte_once_and_in_order(
    buffers: list[bytes], takes: list[int | None]
) -> None:
    sent = bytearray()
    answers = repeated([take or 0 for take in takes])

    def send(window: Sequence[Any]) -> int:
        assert 0 < len(window) <= SendQueue.IOV
        take = next(answers)
        if not take:
            raise BlockingIOError
        piece = b"".join(window)[:take]
        sent.extend(piece)
        return len(piece)

    queue = SendQueue()
    queue.put(buffers)
    total = sum(map(len, buffers))
    assert queue.size == total
    while not queue.pump(send):
        assert queue
        assert queue.size == total - len(sent)
    assert bytes(sent) == b"".join(buffers)
    assert queue.size == 0
    assert not queue


def test_the_sizes_of_head_and_segment_record_are_those_of_the_document() -> None:
    assert (HEAD.size, SEGMENT.size) == (40, 24)


def test_remote_segments_travel_with_their_keys_beside_inline_ones() -> None:
    sent = [Segment(3), Segment(5 << 20, REMOTE, 77, 1 << 63), Segment(0, REMOTE, 1, 2), Segment(1)]
    data = encode(Kind.NOTICE, call=4, segments=sent, extensions=keys_of(sent)) + b"abcd"
    (frame,) = feed(FrameReader(allocate_private, Limits()), data, iter([1] * len(data)))
    assert frame.is_remote
    assert frame.segments == sent
    assert [view and bytes(view) for view in frame.bulk] == [b"abc", None, None, b"d"]
