"""How long calls wait for a server, what a loop's end says, what the log is told, and what is closed."""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from diaspora_stream.api import Exception, TopicHandle
from diaspora_stream.errors import ConfigError, TimeoutExpired
from mochi.margo import client as margo_client
from mochi.margo import rpc
from mochi.margo.errors import Fault, MargoError
from mochi.margo.link import PendingCall
from mochi.mofka.chunks import MAX_PRODUCERS
from mochi.mofka.client import search as search_module
from mochi.mofka.client.batch import Batch
from mochi.mofka.client.core.lane_state import is_forgotten
from mochi.mofka.protocol import SEND_BATCH, SendBatch, Where
from tests.client.client_server import Server

STILL_WAITING = object()


def outcome_of(call: Callable[[], Any], seconds: float) -> Any:
    """What `call` returns or raises in a thread of its own, or `STILL_WAITING`."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else STILL_WAITING


@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1"])
def test_a_server_that_does_not_answer_is_waited_for_as_long_as_was_said(
    start_server: Any, address: str
) -> None:
    server = start_server(address)
    topic = server.topic(timeout_ms=300)
    producer, consumer = topic.producer(batch_size=1), topic.consumer("c")
    producer.push("1").wait()
    event = consumer.pull().wait()
    driver = server.driver(timeout_ms=300)
    server.freeze()
    pushed = producer.push("2")
    for call in (
        pushed.wait,
        producer.flush().wait,
        event.acknowledge,
        lambda: driver.topic_exists(topic.name),
    ):
        assert isinstance(outcome_of(call, 20), TimeoutExpired), call
    assert pushed.wait(50) is None
    assert producer.flush().wait(50) is False
    for call in (lambda: pushed.wait(-1), lambda: pushed.wait(0), lambda: producer.flush().wait(-1)):
        assert outcome_of(call, 1) is STILL_WAITING
    assert outcome_of(consumer.pull().wait, 1) is STILL_WAITING
    server.thaw()
    assert pushed.wait() == 1


def test_a_wait_for_a_server_is_told_once_and_once_when_it_is_over(
    start_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(margo_client, "PATIENCE", 0.1)
    server = start_server()
    topic = server.topic()
    producer = topic.producer(batch_size=1)
    producer.push("1").wait()
    server.freeze()
    pushed = producer.push("2")
    with caplog.at_level(logging.WARNING):
        threading.Timer(0.5, server.thaw).start()
        assert pushed.wait() == 1
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    for word in (topic.name, "partition 0", server.address, "does not answer"):
        assert word in told[0]
    assert "is over after" in told[1]


def test_a_search_for_a_partition_is_told_once_and_once_when_it_is_over(
    start_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search_module, "PATIENCE", 0.1)
    server = start_server()
    topic = server.topic(timeout_ms=1000)
    consumer = topic.consumer("c")
    with caplog.at_level(logging.WARNING):
        server.kill()
        with pytest.raises(Exception, match="nobody answers"):
            consumer.pull().wait()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, told
    for word in (topic.name, "partition 0", server.address, "Connection refused"):
        assert word in told[0]
    assert "given up after" in told[1]


@pytest.mark.parametrize("harm", ["kill", "stop"])
@pytest.mark.parametrize("address", ["na+sm", "tcp://127.0.0.1"])
def test_a_loop_raises_when_nobody_knows_whether_all_is_read(
    start_server: Any, address: str, harm: str
) -> None:
    server = start_server(address)
    topic = server.topic(timeout_ms=1000)
    with topic.producer() as producer:
        producer.push("1")
    consumer = topic.consumer("c", options={"iteration_timeout_ms": 20})
    assert next(consumer).metadata == 1
    getattr(server, harm)()
    with pytest.raises(Exception, match="partition 0"):
        list(consumer)


def test_a_loop_ends_when_all_partitions_have_answered_and_goes_on_for_what_came_meanwhile(
    server: Server,
) -> None:
    topic = server.topic(3)
    consumer = topic.consumer("c", options={"iteration_timeout_ms": 20})
    assert list(consumer) == []
    with topic.producer() as producer:
        for number in range(30):
            producer.push(str(number))
    assert sorted(event.metadata for event in consumer) == list(range(30))
    with pytest.raises(StopIteration):
        next(consumer)


def test_a_loop_may_never_end(server: Server) -> None:
    topic = server.topic()
    consumer = topic.consumer("c", options={"iteration_timeout_ms": 0})
    assert outcome_of(lambda: next(consumer), 0.3) is STILL_WAITING
    topic.producer().push("1").wait()


@pytest.mark.parametrize(
    "options", [{"iteration_timeout_ms": "5"}, {"iteration_timeout_ms": True}, {"timeout": 5}]
)
def test_options_of_a_consumer_are_checked(server: Server, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="options"):
        server.topic().consumer("c", options=options)


def send_as_others(topic: TopicHandle, service: Any, count: int) -> None:
    """Send a batch of one event each under `count` identities."""
    partition = topic.partitions[0]
    client = service.client
    link = client.link(partition["address"])
    where = Where(UUID(partition["uuid"]).bytes, 0)
    sizes = (10).to_bytes(4, "little") + bytes(4)
    text = (2).to_bytes(8, "little") + b"{}"
    answers: list[PendingCall] = []
    for _ in range(count):
        answers.append(PendingCall())
        message = rpc.pack(SendBatch(where, secrets.token_bytes(16), 0, 1, 0))
        link.request(
            SEND_BATCH, partition["provider_id"], message, answers[-1], bulk=[(sizes,), (text,), (b"",)]
        )
        if len(answers) == 100:
            last = answers[-1]
            assert client.wait(last.is_done, lambda: (link,), time.monotonic() + 20)
            answers.clear()
    for answer in answers:
        assert client.wait(answer.is_done, lambda: (link,), time.monotonic() + 20)
        assert answer.error is None


def test_a_quiet_producer_that_was_forgotten_begins_anew_unasked(server: Server) -> None:
    driver = server.driver()
    topic = server.topic()
    producer = topic.producer(batch_size=10)
    assert producer.push("1").wait() == 0
    send_as_others(topic, driver._service, MAX_PRODUCERS + 1)
    futures = [producer.push(str(number)) for number in range(25)]
    assert [future.wait() for future in futures] == list(range(MAX_PRODUCERS + 2, MAX_PRODUCERS + 27))


@pytest.mark.parametrize(
    ("sent", "refused", "code", "renews"),
    [
        ([1], 0, "identity_expired", True),
        ([1, 1, 0], 0, "identity_expired", True),
        ([2, 1], 0, "identity_expired", False),  # it may have been stored before
        ([1, 2], 0, "identity_expired", False),
        ([1, 1], 1, "identity_expired", False),  # the one before may be stored
        ([1], 0, "sequence_gap", False),
    ],
)
def test_an_identity_is_renewed_if_nothing_was_in_doubt(
    sent: Sequence[int], refused: int, code: str, renews: bool
) -> None:
    batches = [Batch(None, 3).seal(0, False, 0) for _ in sent]
    for batch, times in zip(batches, sent, strict=True):
        batch.times_sent = times
    assert is_forgotten(Fault(code, ""), batches[refused], batches) is renews
    assert not is_forgotten(MargoError(), batches[refused], batches)
    assert not is_forgotten(Fault(code, ""), batches[refused], [])


def test_what_is_closed_says_so(server: Server) -> None:
    driver = server.driver()
    name = server.topic().name
    topic = driver.open_topic(name)
    producer, consumer = topic.producer(), topic.consumer("c")
    pulled = consumer.pull()
    producer.close()
    consumer.close()
    producer.close()
    consumer.close()
    uses: list[Callable[[], object]] = [
        lambda: producer.push("1"),
        producer.flush,
        consumer.pull,
        pulled.wait,
        consumer.unsubscribe,
        lambda: list(consumer),
        lambda: next(consumer),
    ]
    for use in uses:
        with pytest.raises(Exception, match="is closed"):
            use()
    driver.close()
    driver.close()
    uses = [
        topic.producer,
        lambda: topic.consumer("c"),
        lambda: driver.topic_exists(name),
        lambda: driver.open_topic(name),
        lambda: driver.create_topic("another", options={"num_partitions": 1}),
        lambda: driver.delete_topic(name),
        driver.list_topics,
        lambda: driver.add_memory_partition(name, 0),
    ]
    for use in uses:
        with pytest.raises(Exception, match="is closed"):
            use()
