"""Data that a selector asks for: of many events by one request, whatever the server takes."""

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from diaspora_stream.api import DataDescriptor, TopicHandle
from mochi.mofka.protocol import RequestData
from tests.client.client_server import Server

DATA = bytes(range(200))


class OlderSubscribed(msgspec.Struct, array_like=True):
    """What a client reads of the answer of a server that takes no arrays."""

    first: int
    epoch: int
    takes_arrays = False


def view_of(number: int, whole: DataDescriptor) -> tuple[DataDescriptor | None, bytes]:
    """Return a selection, and the data that it selects."""
    match number % 5:
        case 0:
            return whole, DATA
        case 1:
            return whole.make_sub_view(offset=7, size=20), DATA[7:27]
        case 2:
            stride = whole.make_stride_view(offset=3, num_blocks=4, block_size=2, gap_size=10)
            return stride, DATA[3:5] + DATA[15:17] + DATA[27:29] + DATA[39:41]
        case 3:
            parts = whole.make_unstructured_view(segments=[(0, 1), (50, 0), (199, 1)])
            return parts, DATA[:1] + DATA[199:]
        case _:
            return None, b""


def fill(topic: TopicHandle, count: int) -> None:
    with topic.producer(batch_size=30) as producer:
        for number in range(count):
            producer.push(number, DATA)


@pytest.mark.parametrize(("is_older", "most"), [(False, 1 << 20), (False, 7), (True, 1 << 20)])
def test_what_is_selected_is_loaded_by_arrays_or_as_older_servers_take_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, is_older: bool, most: int
) -> None:
    if is_older:
        monkeypatch.setattr("mochi.mofka.client.feed.Subscribed", OlderSubscribed)
    monkeypatch.setattr("mochi.mofka.client.feed.MAX_PIECES", most)
    asked: list[RequestData] = []

    def noted(*arguments: Any) -> RequestData:
        asked.append(RequestData(*arguments))
        return asked[-1]

    monkeypatch.setattr("mochi.mofka.client.feed.RequestData", noted)
    topic = server.topic()
    fill(topic, 100)
    with topic.consumer(
        "c",
        data_selector=lambda number, whole: view_of(number, whole)[0],
        data_allocator=lambda number, chosen: [bytearray(chosen.size // 2), bytearray(-(-chosen.size // 2))],
    ) as consumer:
        for number in range(100):
            event = consumer.pull().wait(10000)
            assert event.event_id == number
            assert b"".join(event.data) == view_of(number, DataDescriptor(b"", len(DATA)))[1]
    assert {bool(request.events) for request in asked} == {is_older}
    if most == 7:
        assert all(request.count <= 7 for request in asked)


def calls_each(topic: TopicHandle, name: str, select: Callable[[Any, Any], Any]) -> float:
    """Count the calls of Python functions of this project, for each event of which data is selected."""
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        if event == "call" and (
            "/mochi/" in frame.f_code.co_filename or "/diaspora_" in frame.f_code.co_filename
        ):
            calls += 1

    sys.setprofile(count)
    try:
        with topic.consumer(
            name, data_selector=select, data_allocator=lambda _, chosen: [bytearray(chosen.size)]
        ) as consumer:
            for _ in range(1000):
                consumer.pull().wait(10000)
    finally:
        sys.setprofile(None)
    return calls / 1000


@pytest.mark.parametrize(
    ("name", "select", "bound"),
    [
        ("whole", lambda _, whole: whole, 12),
        ("none", lambda _, whole: None, 11),
        ("sub", lambda _, whole: whole.make_sub_view(offset=7, size=20), 26),
    ],
    ids=["whole", "none", "sub"],
)
def test_an_event_whose_data_is_selected_costs_a_few_calls(
    server: Server, name: str, select: Callable[[Any, Any], Any], bound: float
) -> None:
    topic = server.topic()
    with topic.producer(batch_size=1000) as producer:
        for number in range(1000):
            producer.push({"number": number}, DATA)
    assert calls_each(topic, name, select) <= bound
