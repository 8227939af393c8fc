"""diaspora-ctl fifo as a process, with a real service, real named pipes, and shells that write and read them."""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.api import Driver
from mochi.mofka.testing import BIN, Process, Service
from tests.system.real_service import Machine
from tests.system.test_restart import on_disk, persistent


def until(is_so: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not is_so():
        assert time.monotonic() < deadline, "this did not come about"
        time.sleep(0.01)


def shell(command: str, directory: Path) -> str:
    done = subprocess.run(
        command, shell=True, cwd=directory, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


class Fifos:
    """A service with the topic ``t``, and the daemon."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.directory = machine.directory
        self.server: Service = machine.serve()
        self.driver: Driver = machine.driver(self.server)
        self.driver.create_topic("t", options={"num_partitions": 1})
        self.control = self.directory / "deep" / "control"
        self.daemon = self.start()

    def start(self) -> Process:
        daemon = self.machine.start(
            *(BIN / "diaspora-ctl", "fifo", "--driver", "mofka", "--driver.group_file"),
            *(str(self.server.group_file), "--control-file", str(self.control)),
        )
        daemon.expect("waiting for commands at")
        return daemon

    def tell(self, command: str) -> None:
        self.control.write_text(command + "\n")

    def register(self, command: str) -> None:
        self.tell(command)
        self.daemon.expect(f"registered {command.split(' (')[0]}")

    def events(self, count: int, name: str = "reader") -> list[Any]:
        with self.driver.open_topic("t").consumer(name) as consumer:
            events = [consumer.pull().wait(30000) for _ in range(count)]
            assert all(event is not None for event in events)
            assert consumer.pull().wait(200) is None
            return [event.metadata for event in events if event is not None]


@pytest.fixture
def fifos(machine: Machine) -> Fifos:
    return Fifos(machine)


def test_every_line_of_every_writer_becomes_an_event(fifos: Fifos) -> None:
    fifos.register("in -> t (batch_size=7)")
    for number in range(3):
        shell(f"echo 'line {number}' > in", fifos.directory)
    shell(r"""printf '%s' 'says "no newline" \ at the end' > in""", fifos.directory)
    assert fifos.events(4, name="early")[3] == 'says "no newline" \\ at the end'
    shell("seq 3000 > in", fifos.directory)
    (fifos.directory / "in").write_bytes(b"\n\n" + b"x" * 200_000 + b"\nnot \xff UTF-8\n")
    expected = ["line 0", "line 1", "line 2", 'says "no newline" \\ at the end', *map(str, range(1, 3001))]
    assert fifos.events(3006) == [*expected, "x" * 200_000, "not \\xff UTF-8"]


def test_json_lines_are_values_and_bad_ones_are_named_and_left_out(fifos: Fifos) -> None:
    fifos.register("in -> t (format=json)")
    (fifos.directory / "in").write_text('{"b": 1, "a": [true]}\n{bad\n"text"\n')
    assert fifos.events(2) == [{"a": [True], "b": 1}, "text"]
    fifos.daemon.expect(r"\[error\] an event cannot be stored in topic 't': not valid JSON at byte 1")


def test_lines_of_a_writer_that_stays_are_flushed_when_it_is_idle(fifos: Fifos) -> None:
    fifos.register("in -> t")
    with open(fifos.directory / "in", "w") as writer:
        writer.write("first\nhalf a ")
        writer.flush()
        assert fifos.events(1) == ["first"]
        writer.write("line\n")
        writer.flush()
        assert fifos.events(2) == ["first", "half a line"]


def test_bad_commands_are_named_and_the_daemon_goes_on(fifos: Fifos) -> None:
    commands = {
        "in->t": "no ' -> ' or ' <- '",
        "in -> t (format=raw": "the parenthesis is not closed",
        "in -> ": "the name of the topic is missing",
        "in -> unknown": "topic 'unknown' does not exist",
        "out <- t": "out: No such file or directory",
        "other -> t (format=xml, batch_size=none, odd=1, word)": "format 'xml' is unknown",
    }
    (fifos.directory / "file").write_text("precious")
    for command, message in (commands | {"file -> t": "file: there is something that is no FIFO"}).items():
        fifos.tell(command)
        fifos.daemon.expect(message.replace("(", r"\("))
    assert (fifos.directory / "file").read_text() == "precious"
    fifos.register("other -> t (format=xml, batch_size=none, odd=1, word)")
    shell("echo works > other", fifos.directory)
    assert fifos.events(1) == ["works"]


def test_a_repeated_registration_is_a_success_and_a_removed_fifo_is_made_again(fifos: Fifos) -> None:
    fifos.register("in -> t")
    fifos.tell("in -> t")
    fifos.daemon.expect(r"\[info\] in is registered already")
    fifos.tell("in -> t (format=json)")
    fifos.daemon.expect(r"\[warning\] .* registered already, as")
    (fifos.directory / "in").unlink()
    fifos.tell("in -> t")
    fifos.daemon.expect("registered in -> t", nth=1)
    shell("echo again > in", fifos.directory)
    assert fifos.events(1) == ["again"]


def test_at_sigterm_everything_written_is_stored_and_the_files_are_gone(fifos: Fifos) -> None:
    fifos.register("in -> t (batch_size=100000)")
    os.mkfifo(fifos.directory / "out")
    fifos.register("out <- t")
    with open(fifos.directory / "in", "w") as writer:
        writer.write("".join(f"{number}\n" for number in range(5000)) + "last")
        writer.flush()
        fifos.daemon.signal(signal.SIGTERM)
        assert fifos.daemon.end() == 0
    assert fifos.events(5000)[-1] == "4999"
    assert not (fifos.directory / "in").exists()
    assert not fifos.control.exists()
    assert stat.S_ISFIFO((fifos.directory / "out").stat().st_mode)


def test_readers_come_and_go_and_no_event_is_lost(fifos: Fifos) -> None:
    os.mkfifo(fifos.directory / "out")
    with fifos.driver.open_topic("t").producer() as producer:
        for number in range(20000):
            producer.push({"number": number})
    fifos.register("out <- t")
    seen: list[bytes] = []
    for _ in range(3):
        with open(fifos.directory / "out", "rb", buffering=0) as reader:
            seen.append(reader.read(10000))
    with open(fifos.directory / "out", "rb", buffering=0) as reader:
        while b"".join(seen[-2:])[-20:] != b'{"number":19999}\n'[-20:]:
            if seen[-1].endswith(b'{"number":19999}\n'):
                break
            seen.append(reader.read(65536))
    assert b"".join(seen) == b"".join(b'{"number":%d}\n' % number for number in range(20000))
    assert fifos.daemon.output.count("error") == 0


def test_a_killed_daemon_writes_again_what_no_reader_has_taken(fifos: Fifos) -> None:
    os.mkfifo(fifos.directory / "out")
    with fifos.driver.open_topic("t").producer() as producer:
        for number in range(3):
            producer.push(f'"line {number}"')
    fifos.register("out <- t")
    assert shell("head -c 7 out", fifos.directory) == "line 0\n"
    cursor = fifos.driver.open_topic("t").consumer
    until(lambda: _next_id(cursor) == 1)
    fifos.daemon.kill()
    fifos.daemon = fifos.start()
    fifos.register("out <- t")
    assert shell("head -n 2 out", fifos.directory) == "line 1\nline 2\n"


def _next_id(make: Callable[..., Any]) -> int | None:
    with make("out") as consumer:
        event = consumer.pull().wait(5000)
        return None if event is None else int(event.event_id)


def test_lines_are_kept_while_the_service_is_away(machine: Machine) -> None:
    """Longer away than the driver looks for it, so that what was pushed fails."""
    settings = persistent(machine)
    server = machine.serve(settings)
    machine.driver(server).create_topic("t", options=on_disk(machine))
    command = (
        "--driver",
        "mofka",
        "--driver.group_file",
        str(server.group_file),
        "--driver.timeout_ms",
        "500",
    )
    daemon = machine.start(BIN / "diaspora-ctl", "fifo", *command, "--control-file", "control")
    daemon.expect("waiting for commands")
    (machine.directory / "control").write_text("in -> t\n")
    daemon.expect("registered in -> t")
    server.kill()
    shell("seq 1000 > in", machine.directory)
    daemon.expect("trying again")
    server = machine.serve(settings)
    seen: set[str] = set()
    with machine.driver(server).open_topic("t").consumer("reader") as consumer:
        while len(seen) < 1000:
            event = consumer.pull().wait(30000)
            assert event is not None
            seen.add(event.metadata)
    assert seen == set(map(str, range(1, 1001)))
    daemon.signal(signal.SIGTERM)
    assert daemon.end() == 0


def test_pipes_lead_to_the_files_driver_as_well(machine: Machine) -> None:
    root = machine.directory / "files"
    with Driver(backend="files", options={"root_path": str(root)}) as driver:
        driver.create_topic("t", options={"num_partitions": 2})
    os.mkfifo(machine.directory / "out")
    command = ("fifo", "--driver", "files", "--driver.root_path", str(root), "--control-file", "control")
    daemon = machine.start(BIN / "diaspora-ctl", *command)
    daemon.expect("waiting for commands")
    for line in ("in -> t", "out <- t"):
        (machine.directory / "control").write_text(line + "\n")
        daemon.expect(f"registered {line}")
    shell("seq 500 > in", machine.directory)
    lines = shell("head -n 500 out", machine.directory).splitlines()
    assert sorted(map(int, lines)) == list(range(1, 501))
    daemon.signal(signal.SIGTERM)
    assert daemon.end() == 0


@pytest.mark.alone
def test_a_daemon_at_rest_uses_no_processor_time(fifos: Fifos) -> None:
    os.mkfifo(fifos.directory / "out")
    fifos.register("in -> t")
    fifos.register("out <- t")
    shell("echo one > in", fifos.directory)
    assert shell("head -n 1 out", fifos.directory) == "one\n"

    def ticks() -> int:
        fields = Path(f"/proc/{fifos.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(2)
    assert ticks() - before < 0.2 * os.sysconf("SC_CLK_TCK") * 2


def test_a_control_path_that_is_taken_is_refused_and_left(fifos: Fifos) -> None:
    def refused(path: Path) -> str:
        done = fifos.server.run(
            [
                *(str(BIN / "diaspora-ctl"), "fifo", "--driver", "mofka"),
                *("--driver.group_file", str(fifos.server.group_file), "--control-file", str(path)),
            ],
        )
        assert done.returncode == 1
        return done.stderr

    file = fifos.directory / "file"
    file.write_text("precious")
    link = fifos.directory / "link"
    link.symlink_to(file)
    assert "is no FIFO" in refused(file)
    assert "is no FIFO" in refused(link)
    assert file.read_text() == "precious"
    assert "cannot be made" in refused(file / "below")
    assert "another daemon reads it" in refused(fifos.control)
    assert fifos.control.exists()
    fifos.register("in -> t")


def test_what_a_killed_daemon_has_left_is_used_again(fifos: Fifos) -> None:
    fifos.register("in -> t")
    fifos.daemon.kill()
    fifos.daemon = fifos.start()
    fifos.register("in -> t")
    shell("echo one > in", fifos.directory)
    assert fifos.events(1) == ["one"]
