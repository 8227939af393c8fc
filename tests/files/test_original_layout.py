"""Directories of the original's driver: read, and written on."""

import struct
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver, TopicHandle
from diaspora_stream.errors import EventsDamaged

PATIENCE_MS = 60_000


def prefixed(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


METADATA = [b"{}", b'{"n":1}', b"[1,2]", b'"a"']
DATA = [b"hello", b"", b"he", b"0123456789"]


def make(root: Path, *, partitions: int = 1) -> Path:
    """Make a topic as the original does, and return the directory of its last partition."""
    topic = root / "t"
    for number in range(partitions):
        (topic / "partitions" / f"{number:08d}").mkdir(parents=True)
    for name in ("validator", "serializer", "partition-selector"):
        (topic / f"{name}.json").write_text('{\n  "type": "default"\n}')
    return topic / "partitions" / f"{partitions - 1:08d}"


def fill(partition: Path) -> None:
    metadata = [prefixed(text) for text in METADATA]
    (partition / "metadata").write_bytes(b"".join(metadata))
    (partition / "data").write_bytes(b"".join(DATA))
    rows, places = b"", [0, 0]
    for text, data in zip(metadata, DATA, strict=True):
        rows += struct.pack("<4Q", places[0], len(text), places[1], len(data))
        places = [places[0] + len(text), places[1] + len(data)]
    (partition / "index").write_bytes(rows)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(backend="files", options={"root_path": str(tmp_path)})


def pulled(topic: TopicHandle, count: int, **options: Any) -> list[tuple[Any, bytes]]:
    with topic.consumer("c", **options) as consumer:
        events = [consumer.pull().wait(timeout_ms=PATIENCE_MS) for _ in range(count)]
    return [(event.metadata, b"".join(map(bytes, event.data))) for event in events if event is not None]


EXPECTED = list(zip([{}, {"n": 1}, [1, 2], "a"], DATA, strict=True))


def test_a_topic_of_the_original_is_listed_read_and_written_on(tmp_path: Path, driver: Driver) -> None:
    partition = make(tmp_path)
    fill(partition)
    assert driver.list_topics()["t"]["num_partitions"] == 1
    topic = driver.open_topic("t")
    assert pulled(topic, 4) == EXPECTED
    with topic.producer("p", batch_size=2) as producer:
        ids = [producer.push({"n": n}, b"x" * n) for n in range(3)]
        producer.flush().wait()
        assert [future.wait() for future in ids] == [4, 5, 6]
    assert pulled(topic, 7) == EXPECTED + [({"n": n}, b"x" * n) for n in range(3)]
    index = (partition / "index").read_bytes()
    assert struct.unpack_from("<4Q", index, 6 * 32)[1::2] == (8 + 7, 2)
    assert sum(struct.unpack_from("<4Q", index, 6 * 32)[:2]) == (partition / "metadata").stat().st_size
    assert not list(partition.glob("chunk-*"))


def test_bytes_are_those_that_the_original_writes(tmp_path: Path, driver: Driver) -> None:
    partition = make(tmp_path)
    with driver.open_topic("t").producer("p", batch_size=1) as producer:
        for text, data in zip(METADATA, DATA, strict=True):
            producer.push(text, data)
    written = {name: (partition / name).read_bytes() for name in ("metadata", "data", "index")}
    fill(partition)
    assert written == {name: (partition / name).read_bytes() for name in written}


def test_a_topic_that_was_never_opened_has_its_layout(tmp_path: Path, driver: Driver) -> None:
    partition = make(tmp_path, partitions=2)
    topic = driver.open_topic("t")
    consumer = topic.consumer("c")
    assert consumer.pull().wait(timeout_ms=50) is None
    with topic.producer() as producer:
        assert producer.push({"first": True}, partition=1).wait() == 0
    event = consumer.pull().wait(timeout_ms=PATIENCE_MS)
    assert event is not None
    assert event.metadata == {"first": True}
    assert sorted(path.name for path in partition.iterdir()) == ["data", "index", "metadata", "mofka.lock"]


def test_pieces_of_data_are_read(tmp_path: Path, driver: Driver) -> None:
    fill(make(tmp_path))
    topic = driver.open_topic("t")
    found = pulled(
        topic,
        4,
        data_selector=lambda metadata, whole: whole.make_sub_view(offset=1, size=3),
        data_allocator=lambda metadata, whole: [bytearray(whole.size)],
    )
    assert [data for _, data in found] == [b"ell", b"", b"e", b"123"]


def test_a_torn_index_record_is_no_event_and_the_next_one_takes_its_place(
    tmp_path: Path, driver: Driver
) -> None:
    partition = make(tmp_path)
    fill(partition)
    for name in ("index", "metadata", "data"):
        with open(partition / name, "ab") as file:
            file.write(b"torn")
    topic = driver.open_topic("t")
    with topic.producer() as producer:
        assert producer.push({"after": 1}, b"new").wait() == 4
    assert pulled(topic, 5) == [*EXPECTED, ({"after": 1}, b"new")]


def test_events_whose_bytes_are_lost_are_told_and_passed_over(tmp_path: Path, driver: Driver) -> None:
    partition = make(tmp_path)
    fill(partition)
    index = bytearray((partition / "index").read_bytes())
    struct.pack_into("<Q", index, 32 + 16, 1 << 40)
    (partition / "index").write_bytes(index)
    with driver.open_topic("t").consumer("c") as consumer:
        first = consumer.pull().wait(timeout_ms=PATIENCE_MS)
        assert first is not None
        with pytest.raises(EventsDamaged) as caught:
            consumer.pull().wait(timeout_ms=PATIENCE_MS)
        assert (caught.value.first, caught.value.next) == (1, 2)
        following = consumer.pull().wait(timeout_ms=PATIENCE_MS)
        assert following is not None
        assert following.metadata == [1, 2]


def test_components_that_say_nothing_are_the_default_ones(tmp_path: Path, driver: Driver) -> None:
    partition = make(tmp_path)
    fill(partition)
    (tmp_path / "t" / "validator.json").write_text("{}")
    (tmp_path / "t" / "serializer.json").unlink()
    assert pulled(driver.open_topic("t"), 4) == EXPECTED
