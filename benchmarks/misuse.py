"""What others are given while one who holds the token does its worst: ``python -m benchmarks.misuse``.

Each row is a misuse, on one server over tcp. An honest client, a process of its own, pushes one event after the other
to a partition in files and waits for each, first alone and then under attack. Memory is what the server holds under
attack at most, beside what it held before. What those without the token can do is in `benchmarks.attacks`.
"""

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from benchmarks.limits import Measures, percentiles
from benchmarks.processes import Checkpoint, Worker, server, usage
from benchmarks.program import Options, command_line, matching, publish, repeat
from benchmarks.report import Column, Report, environment, table
from diaspora_stream.api import Driver
from mochi.bedrock.rpc import QUERY_CONFIG, QueryConfig
from mochi.flock import group_file
from mochi.margo import rpc, transport
from mochi.margo.peer import Asking, Seat, State
from mochi.margo.wire import Kind, Segment, encode
from mochi.mofka import protocol
from mochi.mofka.testing import Service

ADDRESS = "tcp://127.0.0.1"
STORED = 64 << 20
SECONDS = 4.0
ANY_EPOCH = 0

COLUMNS = (
    Column("alone, k/s", "quiet_per_s", 1e3, 2),
    Column("p50 µs", "quiet_p50_us"),
    Column("p99 µs", "quiet_p99_us"),
    Column("under attack, k/s", "per_s", 1e3, 2),
    Column("p50 µs", "p50_us"),
    Column("p99 µs", "p99_us"),
    Column("longest ms", "longest_ms", decimals=1),
    Column("memory, MiB more", "grown", 2**20),
)


class Target(msgspec.Struct, frozen=True):
    """Where an attack goes: a server, its token, and a partition of it that holds `STORED` bytes of events of 1 MiB."""

    address: str
    token: bytes
    provider_id: int
    uuid: bytes

    def greeted(self) -> socket.socket:
        """A connection that has proved itself."""
        connected = transport.connect(self.address, 10.0)
        peer = Asking(Seat(self.token), self.address)
        while peer.queue.pump(connected.sendmsg) and peer.state is not State.OPEN:
            peer.reader.received(connected.recv_into(peer.reader.buffers()[0]))
            peer.next_event()
        return connected

    def request(self, name: str, message: Any, call: int, segments: tuple[int, ...] = ()) -> bytes:
        """A request to the partition, up to its bulk; to bedrock if it is a query."""
        return encode(
            Kind.REQUEST,
            call=call,
            rpc=rpc.number(name),
            provider_id=0 if name == QUERY_CONFIG else self.provider_id,
            message=rpc.pack(message),
            segments=[Segment(size) for size in segments],
        )

    @property
    def where(self) -> protocol.Where:
        return protocol.Where(self.uuid, ANY_EPOCH)


def answers_not_read(target: Target) -> None:
    """Forty requests for 64 MiB of data each, on each of four connections, and nothing is read."""
    asked = [(0, [(0, 1 << 20)] * 64)]
    message = protocol.RequestData(target.where, asked)
    peers = [target.greeted() for _ in range(4)]
    for peer in peers:
        peer.sendall(b"".join(target.request(protocol.REQUEST_DATA, message, call + 1) for call in range(40)))
    _hold(peers)


def feeds_not_read(target: Target) -> None:
    """A thousand feeds with 64 MiB of credit each, on one connection, and nothing is read."""
    peer = target.greeted()
    for call in range(1000):
        asked = protocol.Subscribe(target.where, f"c{call}", 5000 + call, 0, 4096, 64 << 20, True, 0)
        peer.sendall(target.request(protocol.SUBSCRIBE, asked, call + 1))
    _hold([peer])


def half_batches(target: Target) -> None:
    """Sixteen connections that each announce a batch of 256 MiB, send half of it, and wait."""
    size = 256 << 20
    peers = [target.greeted() for _ in range(16)]
    sizes = struct.pack("<2I", 2, size)
    for number, peer in enumerate(peers):
        message = protocol.SendBatch(target.where, bytes([number]) * 16, 0, 1, 0)
        peer.setblocking(False)
        head = target.request(protocol.SEND_BATCH, message, 1, (len(sizes), 2, size)) + sizes + b"{}"
        threading.Thread(target=_send, args=(peer, head + bytes(size // 2)), daemon=True).start()
    _hold(peers)


def dear_queries(target: Target) -> None:
    """Queries that never end, as many as the server takes, on four connections."""
    query = target.request
    peers = [target.greeted() for _ in range(4)]

    def flood(peer: socket.socket) -> None:
        calls = iter(range(1, 1 << 40))
        while True:
            peer.sendall(query(QUERY_CONFIG, QueryConfig("while(true){$a=1;}"), next(calls)))

    for peer in peers:
        threading.Thread(target=flood, args=(peer,), daemon=True).start()
        threading.Thread(target=_drain, args=(peer,), daemon=True).start()
    _hold(peers)


def small_requests(target: Target) -> None:
    """Requests without an end, each answered with a fault, on four connections that read."""
    peers = [target.greeted() for _ in range(4)]
    burst = b"".join(target.request("no such RPC", None, call + 1) for call in range(200))

    def flood(peer: socket.socket) -> None:
        while True:
            peer.sendall(burst)

    for peer in peers:
        threading.Thread(target=flood, args=(peer,), daemon=True).start()
        threading.Thread(target=_drain, args=(peer,), daemon=True).start()
    _hold(peers)


def _send(peer: socket.socket, data: bytes) -> None:
    peer.setblocking(True)
    with suppress(OSError):
        peer.sendall(data)


def _drain(peer: socket.socket) -> None:
    with suppress(OSError):
        while peer.recv(1 << 16):
            pass


def _hold(peers: list[socket.socket]) -> None:
    """Keep connections, and do not read from them."""
    threading.Event().wait(60)
    del peers


ATTACKS: tuple[Callable[[Target], None], ...] = (
    answers_not_read,
    feeds_not_read,
    half_batches,
    dear_queries,
    small_requests,
)


def attacking(checkpoint: Checkpoint, number: int, target: Target) -> None:
    """Run an attack until it is told to end, which it is by ending the process."""
    checkpoint(None)
    threading.Thread(target=ATTACKS[number], args=(target,), daemon=True).start()
    checkpoint(None)
    checkpoint(None)


def honest(checkpoint: Checkpoint, path: str, seconds: float) -> None:
    """Push single events, and wait for each; give the durations at each checkpoint."""
    options = {"group_file": path, "timeout_ms": 30_000}
    with (
        Driver(backend="mofka", options=options) as driver,
        driver.open_topic("honest").producer() as producer,
    ):
        laps: list[float] | None = None
        while True:
            checkpoint(laps)
            laps, end = [], time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                producer.push({"a": 1}, b"x" * 100).wait(30_000)
                laps.append(time.perf_counter() - start)


class Attack(msgspec.Struct, frozen=True):
    """One row of the table."""

    number: int
    seconds: float = SECONDS

    @property
    def name(self) -> str:
        """What it is called: its function."""
        return ATTACKS[self.number].__name__.replace("_", "-")

    def measure(self, directory: Path) -> Measures:
        """One repetition."""
        with server(ADDRESS, directory) as running:
            target = prepare(running, directory)
            with Worker(honest, str(running.group_file), self.seconds) as client:
                client.advance()
                quiet = client.advance()
                before = usage(running.pid).memory_bytes
                with Worker(attacking, self.number, target) as attacker:
                    attacker.advance()
                    laps, most = watched(client, running)
        return {
            "quiet_per_s": len(quiet) / sum(quiet),
            **{f"quiet_{name}": value for name, value in percentiles(quiet).items()},
            "per_s": len(laps) / sum(laps),
            **percentiles(laps),
            "longest_ms": max(laps) * 1e3,
            "grown": max(most - before, 0),
        }


def watched(client: Worker, running: Service) -> tuple[list[float], int]:
    """Let the client go on; return its durations, and the most memory that the server had meanwhile."""
    over = threading.Event()
    most = usage(running.pid).memory_bytes

    def watch() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, usage(running.pid).memory_bytes)

    watching = threading.Thread(target=watch)
    watching.start()
    laps = client.advance()
    over.set()
    watching.join()
    return laps, most


def prepare(running: Service, directory: Path) -> Target:
    """Make a topic for the honest client and one with events for the attack."""
    config = {"type": "default", "partition": {"path": str(directory / "partitions"), "sync": False}}
    with Driver(backend="mofka", options={"group_file": str(running.group_file)}) as driver:
        for name in ("honest", "target"):
            driver.create_topic(name, options={"num_partitions": 1, "config": config})
        topic = driver.open_topic("target")
        with topic.producer() as producer:
            for _ in range(STORED >> 20):
                producer.push({}, bytes(1 << 20))
        (partition,) = topic.partitions
    token = group_file.read(running.group_file).token or b""
    return Target(partition["address"], token, partition["provider_id"], UUID(partition["uuid"]).bytes)


def markdown(report: Report) -> Iterator[str]:
    """The report for people."""
    yield "Pushes of one event, flushed and acknowledged. Medians (lowest - highest).\n"
    yield table(report.rows, COLUMNS)


def main() -> int:
    """Run, print, write; the exit status is 1 if any row failed."""
    parser = command_line("misuse", __doc__.partition("\n")[0], "each once, for half a second")
    options = parser.parse_args(namespace=Options())
    seconds = 0.5 if options.quick else SECONDS
    selected = matching([Attack(number, seconds) for number in range(len(ATTACKS))], options.only)
    rows, failures = repeat(selected, 1 if options.quick else options.repetitions, options.directory)
    report = Report(environment("misuse"), {}, rows, failures)
    return publish(report, markdown(report), options)


if __name__ == "__main__":
    sys.exit(main())
