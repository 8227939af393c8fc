"""diaspora-ctl forward as a process, between real services."""

import json
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver, Serializer
from diaspora_stream.ctl.forward import Forwarder
from diaspora_stream.ctl.forward_config import parse
from diaspora_stream.ctl.main import main
from diaspora_stream.ctl.stopping import Stop
from mochi.mofka.client.event import MofkaEvent
from mochi.mofka.testing import BIN, Process
from tests.system.real_service import Machine
from tests.system.test_restart import on_disk, persistent


class Pair:
    """Two services, each with a topic."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.directory = machine.directory
        self.servers = [machine.serve(name=name) for name in ("one", "two")]
        self.source, self.target = (machine.driver(server) for server in self.servers)
        self.source.create_topic("from", options={"num_partitions": 2})
        self.target.create_topic("to", options={"num_partitions": 2})
        self.config = self.directory / "forward.yaml"

    def write(self, entry: str = "", options: str = "") -> None:
        one, two = (server.group_file for server in self.servers)
        self.config.write_text(
            "drivers:\n"
            f"  here: {{type: mofka, options: {{group_file: '{one}'{options}}}}}\n"
            f"  there: {{type: mofka, options: {{group_file: '{two}'{options}}}}}\n"
            "forward:\n"
            f"  - {{from: here/from, to: there/to{entry}}}\n"
        )

    def start(self) -> Process:
        process = self.machine.start(BIN / "diaspora-ctl", "forward", "--config", self.config)
        process.expect("forwarding here/from->there/to")
        return process

    def push(self, first: int, count: int, size: int = 0) -> None:
        with self.source.open_topic("from").producer() as producer:
            for number in range(first, first + count):
                producer.push({"n": number}, number.to_bytes(4, "big") * (size // 4))

    def arrived(self, count: int) -> list[tuple[Any, bytes]]:
        """Return the events at the destination, once there are as many different ones."""
        found: list[tuple[Any, bytes]] = []
        different: set[str] = set()
        with self.target.open_topic("to").consumer("reader") as consumer:
            while len(different) < count:
                event = consumer.pull().wait(30000)
                assert event is not None, f"{len(found)} of {count}"
                different.add(str(event.metadata))
                found.append((event.metadata, b"".join(event.data)))
            while (event := consumer.pull().wait(200)) is not None:
                found.append((event.metadata, b"".join(event.data)))
        return found


def cursors(driver: Driver, topic: str, name: str) -> dict[int, int]:
    """Return the id at which a consumer of this name would go on, for each partition that has one more event."""
    handle = driver.open_topic(topic)
    found = {}
    for index in range(len(handle.partitions)):
        with handle.consumer(name, targets=[index]) as consumer:
            event = consumer.pull().wait(1000)
            if event is not None and event.event_id is not None:
                found[index] = event.event_id
    return found


@pytest.fixture
def pair(machine: Machine) -> Pair:
    pair = Pair(machine)
    pair.write()
    return pair


def test_events_go_over_with_their_data_and_the_next_start_goes_on(pair: Pair) -> None:
    pair.push(0, 3000, size=64)
    process = pair.start()
    expected = {str({"n": n}): n.to_bytes(4, "big") * 16 for n in range(3000)}
    assert {str(metadata): data for metadata, data in pair.arrived(3000)} == expected
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    process.expect(r"3000 events and 192000 bytes of data forwarded, 0 refused, 0 lost .*, 0 left")
    pair.push(3000, 10)
    process = pair.start()
    assert len(pair.arrived(3010)) == 3010
    process.signal(signal.SIGINT)
    assert process.end() == 0
    process.expect("10 events and 0 bytes")


def test_values_of_every_kind_stay_what_they_are(pair: Pair) -> None:
    values: list[Any] = [
        "text",
        '{"a": 1}',
        'with "quotes" and \\\\',
        None,
        7,
        2.0,
        [1, "x"],
        {"deep": {"er": []}},
    ]
    with pair.source.open_topic("from").producer() as producer:
        for value in values:
            producer.push(json.dumps(value))
    pair.start()
    arrived = [metadata for metadata, _ in pair.arrived(len(values))]
    assert sorted(map(json.dumps, arrived)) == sorted(map(json.dumps, values))


def test_text_of_a_raw_serializer_stays_as_it_was_given(pair: Pair) -> None:
    for driver, name in ((pair.source, "from"), (pair.target, "to")):
        driver.delete_topic(name)
        raw = Serializer.from_metadata(type="raw")
        driver.create_topic(name, options={"num_partitions": 1}, serializer=raw)
    text = '{"b":  1, "a": [ ]}'
    with pair.source.open_topic("from").producer() as producer:
        producer.push(text)
    pair.start()
    pair.target = pair.machine.driver(pair.servers[1], metadata="text")
    assert pair.arrived(1) == [(text, b"")]


def test_events_go_into_files_and_out_of_them(pair: Pair) -> None:
    count = 2000
    pair.push(0, count, size=32)
    files = Driver(backend="files", options={"root_path": str(pair.directory / "files")})
    files.create_topic("kept", options={"num_partitions": 3})
    one, two = (server.group_file for server in pair.servers)
    pair.config.write_text(
        "drivers:\n"
        f"  here: {{type: mofka, options: {{group_file: '{one}'}}}}\n"
        f"  disk: {{type: files, options: {{root_path: '{pair.directory / 'files'}'}}}}\n"
        f"  there: {{type: mofka, options: {{group_file: '{two}'}}}}\n"
        "forward:\n"
        "  - {from: here/from, to: disk/kept}\n"
        "  - {from: disk/kept, to: there/to}\n"
    )
    for _ in range(2):
        process = pair.machine.start(BIN / "diaspora-ctl", "forward", "--config", pair.config)
        process.expect("forwarding disk/kept->there/to")
        arrived = pair.arrived(count)
        assert len(arrived) == count
        assert all(data == metadata["n"].to_bytes(4, "big") * 8 for metadata, data in arrived)
        process.signal(signal.SIGTERM)
        assert process.end() == 0
    with files, files.open_topic("kept").consumer("reader") as consumer:
        assert len([consumer.pull().wait(30000) for _ in range(count)]) == count
        assert consumer.pull().wait(200) is None


def test_a_killed_forward_loses_nothing_and_repeats_only_what_was_not_acknowledged(pair: Pair) -> None:
    count = 40000
    pair.push(0, count, size=256)
    process = pair.start()
    with pair.target.open_topic("to").consumer("watch") as consumer:
        for _ in range(500):
            assert consumer.pull().wait(30000) is not None
    process.kill()
    going_on = cursors(pair.source, "from", "here/from->there/to")
    where: dict[int, tuple[int, int]] = {}
    with pair.source.open_topic("from").consumer("map") as consumer:
        uuids = [partition["uuid"] for partition in pair.source.open_topic("from").partitions]
        for _ in range(count):
            event = consumer.pull().wait(30000)
            assert event is not None
            assert event.event_id is not None
            where[event.metadata["n"]] = uuids.index(event.partition["uuid"]), event.event_id
    process = pair.start()
    times = Counter(metadata["n"] for metadata, _ in pair.arrived(count))
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    assert set(times) == set(range(count))
    repeated = [number for number, seen in times.items() if seen > 1]
    assert max(times.values()) <= 2
    for number in repeated:
        partition, event_id = where[number]
        assert event_id >= going_on[partition]


def test_a_destination_that_is_away_is_tried_until_it_is_back(pair: Pair) -> None:
    """Longer away than the driver looks for it, so that what was pushed fails."""
    settings = persistent(pair.machine)
    server = pair.machine.serve(settings, name="kept")
    driver = pair.machine.driver(server)
    driver.create_topic("to", options=on_disk(pair.machine))
    pair.servers[1], pair.target = server, driver
    pair.write(options=", timeout_ms: 500")
    process = pair.start()
    pair.push(0, 1)
    assert len(pair.arrived(1)) == 1
    server.kill()
    pair.push(1, 500)
    process.expect("trying again")
    pair.machine.serve(settings, name="kept")
    pair.arrived(501)
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    process.expect(r"501 events and 0 bytes of data forwarded, 0 refused, .*, 0 left")


def test_what_the_destination_refuses_is_named_and_counted(pair: Pair) -> None:
    pair.target.delete_topic("to")
    pair.target.create_topic(
        "to", options={"num_partitions": 1}, schema={"properties": {"n": {"maximum": 1}}}
    )
    pair.push(0, 4)
    process = pair.start()
    assert len(pair.arrived(2)) == 2
    process.expect(r"\[error\] an event cannot be stored in topic 'to'", nth=1)
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    process.expect("2 events and 0 bytes of data forwarded, 2 refused")


def test_functions_choose_the_data(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    (pair.directory / "choose.py").write_text(
        "def some(metadata, descriptor):\n"
        "    return descriptor.make_sub_view(offset=0, size=2) if metadata['n'] else None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(pair.directory))
    pair.write(', data_selector: "choose:some"')
    pair.push(0, 3, size=8)
    pair.start()
    assert {metadata["n"]: data for metadata, data in pair.arrived(3)} == {
        0: b"",
        1: b"\0\0",
        2: b"\0\0",
    }


def test_a_function_that_fails_ends_it_and_no_event_is_passed_over(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pair.directory / "choose.py"
    file.write_text(
        "def some(metadata, descriptor):\n    if metadata['n'] == 5: raise ValueError('five')\n    return descriptor\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(pair.directory))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pair.write(', data_selector: "choose:some"')
    pair.push(0, 10, size=8)
    process = pair.start()
    assert process.end() == 1
    process.expect("Error: five")
    file.write_text("def some(metadata, descriptor):\n    return descriptor\n")
    pair.start()
    assert {metadata["n"] for metadata, _ in pair.arrived(10)} == set(range(10))


def test_events_go_in_batches(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 20000
    pair.push(0, count)
    acknowledged: list[int | None] = []
    acknowledge = MofkaEvent.acknowledge

    def counted(event: MofkaEvent) -> None:
        acknowledged.append(event.event_id)
        acknowledge(event)

    monkeypatch.setattr(MofkaEvent, "acknowledge", counted)
    stop = Stop()
    (route,) = parse(pair.config.read_bytes()).routes
    forwarder = Forwarder(route, {"here": pair.source, "there": pair.target}, stop)
    thread = threading.Thread(target=forwarder.run)
    thread.start()
    try:
        assert len(pair.arrived(count)) == count
    finally:
        stop.request()
        thread.join(60)
    assert len(acknowledged) < count / 20
    assert cursors(pair.source, "from", str(route)) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drivers: {}", "configuration.forward: missing"),
        ("forward: []", "configuration.drivers: missing"),
        ("{", "not YAML"),
        ("[]", "must be an object"),
        ("drivers: {a: {}}\nforward: []", "drivers.a.type: missing"),
        ("drivers: {}\nforward: [{from: a/b, to: a/c}]", "driver 'a' is not among the drivers"),
        ("drivers: {a: {type: x}}\nforward: [{from: a, to: a/c}]", "must be '<driver>/<topic>'"),
        ("drivers: {a: {type: x}}\nforward: [{from: a/b}]", "forward[0].to: missing"),
        ("drivers: {a: {type: x}}\nforward: [{from: a/b, to: a/b}]", "is where the events come from"),
        (
            "drivers: {a: {type: x}}\nforward: [{from: a/b, to: a/c}]",
            "nothing is installed under the name 'x'",
        ),
        (
            "drivers: {a: {type: x}}\nforward: [{from: a/b, to: a/c, data_selector: 'lib.so:symbol'}]",
            "write the function in Python, and name it as 'module:function'",
        ),
        (
            "drivers: {a: {type: x}}\nforward: [{from: a/b, to: a/c, data_allocator: 'no_module:f'}]",
            "'no_module:f' cannot be imported",
        ),
        (
            "drivers: {a: {type: mofka, options: {}}}\nforward: [{from: a/b, to: a/c}]",
            "drivers.a.options.group_file",
        ),
    ],
)
def test_a_bad_configuration_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "forward.yaml"
    path.write_text(text)
    assert main(["forward", "--config", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_an_empty_list_is_done_at_once_and_a_missing_topic_is_an_error(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.config.write_text("drivers: {}\nforward: []\n")
    assert main(["forward", "--config", str(pair.config)]) == 0
    pair.write()
    pair.target.delete_topic("to")
    assert main(["forward", "--config", str(pair.config)]) == 1
    assert "topic 'to' does not exist" in capsys.readouterr().err
    assert main(["forward", "--config", "/nowhere.yaml"]) == 1
