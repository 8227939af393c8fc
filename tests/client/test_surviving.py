"""What a client survives: stopped, killed and silent servers, cut connections, forks, Ctrl-C, and its own end."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from diaspora_stream.api import AdaptiveBatchSize, Exception, TopicHandle
from mochi.margo import address, transport
from mochi.mofka.client.batch import MAX_BATCH_BYTES
from tests.client.client_server import Server

Program = Callable[..., "subprocess.Popen[str]"]


def metadata_of(topic: TopicHandle, count: int) -> list[Any]:
    """The metadata of the first `count` events, and proof that there is no further one."""
    with topic.consumer(f"check-{time.monotonic_ns()}") as consumer:
        found = [consumer.pull().wait(10000).metadata for _ in range(count)]
        assert consumer.pull().wait(50) is None
    return found


def test_a_full_producer_raises_at_once_or_after_its_time_out_and_loses_nothing(start_server: Any) -> None:
    server = start_server()
    topic = server.topic(timeout_ms=300)
    impatient = topic.producer(batch_size=2, max_num_batches=1, options={"when_full": "raise"})
    patient = topic.producer(batch_size=2, max_num_batches=1)
    impatient.push(["a"]), patient.push(["a"])
    impatient.flush().wait(), patient.flush().wait()
    server.freeze()
    accepted = 2
    for producer, least in ((impatient, 0.0), (patient, 0.3)):
        for _ in range(6):  # the batch on its way, the one behind it, and the open one
            producer.push(accepted)
            accepted += 1
        begin = time.monotonic()
        with pytest.raises(Exception, match="no room"):
            producer.push("7")
        assert least <= time.monotonic() - begin < 20
        assert producer.flush().wait(50) is False
    server.thaw()
    for producer in (impatient, patient):
        assert producer.flush().wait(10000) is True
    assert len(metadata_of(topic, accepted)) == accepted


@pytest.mark.parametrize("batch_size", [1000, AdaptiveBatchSize])
def test_bytes_on_their_way_stay_below_the_stated_bounds(start_server: Any, batch_size: int) -> None:
    server = start_server("tcp://127.0.0.1")
    topic = server.topic(timeout_ms=100)
    producer = topic.producer(batch_size=batch_size, max_num_batches=2, options={"when_full": "raise"})
    producer.push(None).wait()
    server.freeze()
    event = bytes(1 << 20)
    pushed = 0
    with contextlib.suppress(Exception):
        while pushed <= 4 * MAX_BATCH_BYTES:
            producer.push(None, event)
            pushed += len(event)
    server.thaw()
    assert pushed <= 4 * MAX_BATCH_BYTES
    assert producer.flush().wait(20000) is True


def test_a_killed_server_makes_pending_waits_and_later_calls_raise(start_server: Any) -> None:
    server = start_server()
    topic = server.topic(timeout_ms=1000)
    producer, consumer = topic.producer(batch_size=10), topic.consumer("c")
    producer.push(["stored"]).wait()
    event = consumer.pull().wait(5000)
    server.freeze()
    futures = [producer.push(number) for number in range(25)]
    pull = consumer.pull()
    server.kill()
    begin = time.monotonic()
    for future in futures:
        with pytest.raises(ConnectionError):
            future.wait()
    with pytest.raises(ConnectionError):
        pull.wait()
    with pytest.raises(ConnectionError):
        event.acknowledge()
    with pytest.raises(ConnectionError):
        producer.push(["late"]).wait()
    assert time.monotonic() - begin < 60
    assert event.metadata == ["stored"]


class Proxy:
    """Passes bytes on to a server, until it is told to cut."""

    def __init__(self, target: address.TcpAddress) -> None:
        self._target = (target.host, target.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"ofi+tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            with self._lock:
                self.connections += 1
                self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()


@pytest.fixture
def proxied(start_server: Any) -> Iterator[tuple[Server, Proxy]]:
    """A tcp server whose group file leads through a proxy."""
    server = start_server("tcp://127.0.0.1")
    real = server.address
    target = address.parse(real)
    assert isinstance(target, address.TcpAddress)
    proxy = Proxy(target)
    yield server, proxy
    proxy.close()


def test_connections_cut_in_the_middle_cost_nothing_and_double_nothing(
    proxied: tuple[Server, Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = proxied
    real = transport.connect

    def through_proxy(text: str, timeout: float) -> socket.socket:
        return real(proxy.address if text == server.address else text, timeout)

    monkeypatch.setattr(transport, "connect", through_proxy)
    topic = server.topic()
    count = 30_000
    futures = []
    with topic.producer(batch_size=100) as producer:
        for number in range(count):
            futures.append(producer.push(number, b"x" * 100))
            if number % 3000 == 2950:
                proxy.cut()
        assert producer.flush().wait(30000) is True
        assert [future.wait() for future in futures] == list(range(count))
    assert proxy.connections >= 5
    assert metadata_of(topic, count) == list(range(count))


def test_parent_and_forked_child_both_go_on_and_send_their_own_events_only(
    server: Server, run_program: Program
) -> None:
    topic = server.topic()
    process = run_program(
        server,
        topic,
        """
        producer = topic.producer(batch_size=1000)
        consumer = topic.consumer("c")
        producer.push(["before"]).wait()
        assert consumer.pull().wait(5000).metadata == ["before"]
        pending = [producer.push(["parent"]) for _ in range(5)]
        child = os.fork()
        if child == 0:
            producer.push(["child"]).wait()
            event = consumer.pull().wait(5000)
            assert event.metadata == ["before"], event.metadata
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert producer.flush().wait(5000) is True
        assert [future.wait() for future in pending] == [2, 3, 4, 5, 6]
        """,
    )
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0
    assert metadata_of(topic, 7) == [["before"], ["child"], *[["parent"]] * 5]


def test_a_child_s_wait_for_its_parent_s_event_raises(server: Server, run_program: Program) -> None:
    topic = server.topic()
    process = run_program(
        server,
        topic,
        """
        producer = topic.producer(batch_size=1000)
        future = producer.push(["parent"])
        child = os.fork()
        if child == 0:
            try:
                future.wait(5000)
            except RuntimeError:
                os._exit(7)
            os._exit(8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        """,
    )
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    "call",
    [
        "topic.consumer('c').pull().wait()",
        "list(topic.consumer('c'))",
        "stop(); producer.push(1); producer.flush().wait()",
        "stop(); [producer.push(0, bytes(1 << 20)) for _ in range(200)]",
        "event = topic.consumer('d').pull().wait(5000); stop(); event.acknowledge()",
    ],
)
def test_ctrl_c_ends_a_blocking_call_at_once_and_the_program_goes_on(
    start_server: Any, run_program: Program, call: str
) -> None:
    server = start_server()
    topic = server.topic()
    topic.producer().push(["there"]).wait()
    process = run_program(
        server,
        topic,
        f"""
        def stop():
            os.kill({server.pid}, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        producer = topic.producer()
        topic.consumer('c').pull().wait(5000).acknowledge()
        begin = time.monotonic()
        try:
            {call}
        except KeyboardInterrupt:
            assert time.monotonic() - begin < 20
        else:
            raise SystemExit("no KeyboardInterrupt")
        os.kill({server.pid}, signal.SIGCONT)
        producer.push(["after"]).wait(5000)
        """,
    )
    assert process.communicate(timeout=40)[1] == ""
    assert process.returncode == 0


def test_events_pending_at_the_end_of_the_program_are_stored(server: Server, run_program: Program) -> None:
    topic = server.topic()
    process = run_program(
        server, topic, "producer = topic.producer(batch_size=1000)\nfor i in range(2500): producer.push(i)"
    )
    assert process.communicate(timeout=30)[1] == ""
    assert metadata_of(topic, 2500) == list(range(2500))


def test_events_of_a_producer_that_is_dropped_are_stored(server: Server) -> None:
    topic = server.topic()
    producer = topic.producer(batch_size=1000)
    for number in range(1500):
        producer.push(number)
    del producer
    assert metadata_of(topic, 1500) == list(range(1500))


def test_a_program_whose_server_is_gone_ends_and_says_what_is_lost(
    start_server: Any, run_program: Program
) -> None:
    server = start_server()
    topic = server.topic()
    process = run_program(
        server,
        topic,
        f"""
        producer = topic.producer(batch_size=1000)
        os.kill({server.pid}, signal.SIGKILL)
        for i in range(10): producer.push(i)
        """,
    )
    begin = time.monotonic()
    error = process.communicate(timeout=40)[1]
    assert "10 events" in error
    assert time.monotonic() - begin < 20


def test_an_idle_client_does_not_wake_up(server: Server, run_program: Program) -> None:
    topic = server.topic()
    process = run_program(
        server,
        topic,
        """
        producer, consumer = topic.producer(), topic.consumer("c")
        producer.push(1).wait()
        consumer.pull().wait()
        print("idle", flush=True)
        time.sleep(30)
        """,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "idle\n"
    before = _switches(process.pid)
    assert select.select([process.stdout], [], [], 2.0)[0] == []
    assert _switches(process.pid) - before < 10
    process.send_signal(signal.SIGKILL)


def _switches(pid: int) -> int:
    """Context switches of all threads of a process."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as status:
            total += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
    return total
