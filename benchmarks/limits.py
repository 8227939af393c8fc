"""What this machine can do at most, measured with nothing of ours in the way.

Each function moves, encodes or stores the bytes of `benchmarks.events` with the barest program that can, and
says how fast it went. The ratio of the service to the slowest limit on its path is what its own work costs.
Peers are processes of their own, as a server and a client are.

`python -m benchmarks.limits` prints them alone. What is left of the service's rates while it is misused is measured by
`benchmarks.attacks`, of those without the token, and `benchmarks.misuse`.
"""

import asyncio
import contextlib
import mmap
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import uvloop

from benchmarks.events import Events, metadata, size_name

T = TypeVar("T")
Measures = dict[str, float]

SOCKETS = ("unix", "tcp")
TOTAL_BYTES = 128 << 20
SOCKET_BUFFER = 1 << 20
ECHOES = 2000
SYNCS = 500
SPAWN = multiprocessing.get_context("spawn")


def encode(count: int = 200_000) -> Measures:
    """Dicts of metadata to JSON text, one `msgspec` call each, in a loop that does nothing else."""
    return _per_event(msgspec.json.Encoder().encode, [metadata(frame) for frame in range(1000)], count)


def decode(count: int = 200_000) -> Measures:
    """JSON text of metadata to dicts, one `msgspec` call each, in a loop that does nothing else."""
    texts = [msgspec.json.encode(metadata(frame)) for frame in range(1000)]
    return _per_event(msgspec.json.Decoder().decode, texts, count)


def copy(*, touched: bool, total: int = 256 << 20) -> Measures:
    """One copy of `total` bytes into memory whose pages exist already (`touched`) or do not."""
    source = os.urandom(1 << 20)
    with mmap.mmap(-1, total) as target:
        for _ in range(2 if touched else 1):
            start = time.perf_counter()
            for offset in range(0, total, len(source)):
                target[offset : offset + len(source)] = source
            elapsed = time.perf_counter() - start
    return {"mb_per_s": total / elapsed / 1e6}


def echo(family: str, message: bytes, events: int, rounds: int) -> Measures:
    """A message to a uvloop server and back, one at a time: nothing but two event loops and the kernel."""
    with _peer(_serve_echo, family) as address:
        laps = uvloop.run(_ping(address, message, rounds + rounds // 10))[rounds // 10 :]
    return _rates(events * rounds, len(message) * rounds, sum(laps)) | percentiles(laps)


def transfer(family: str, batch: bytes, events: int, rounds: int) -> Measures:
    """Batches one way between blocking sockets, received into one warm buffer; one byte back at the end."""
    with _peer(_serve_sink, family, len(batch), rounds) as address, _connected(address) as peer:
        peer.sendall(batch)
        peer.recv(1)
        start = time.perf_counter()
        for _ in range(rounds):
            peer.sendall(batch)
        if peer.recv(1) != b"=":
            raise ConnectionError("the receiving peer broke off")
        elapsed = time.perf_counter() - start
    return _rates(events * rounds, len(batch) * rounds, elapsed)


def append(directory: Path, batch: bytes, events: int, rounds: int, *, sync: bool) -> Measures:
    """Batches appended to one new file, each followed by `fdatasync` where `sync` says so."""
    laps = []
    with tempfile.NamedTemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(rounds):
            start = time.perf_counter()
            written = os.write(file.fileno(), batch)
            if sync:
                os.fdatasync(file.fileno())
            laps.append(time.perf_counter() - start)
            if written != len(batch):
                raise OSError(f"{file.name}: {written} of {len(batch)} bytes written")
    return _rates(events * rounds, len(batch) * rounds, sum(laps)) | percentiles(laps)


def measure(data_sizes: list[int], directory: Path) -> Iterator[tuple[str, Measures]]:
    """All limits that matter to events with data of the given sizes, files in `directory`; name and measures.

    Names are ``encode``, ``decode``, ``copy/new``, ``copy/warm`` and, for each size,
    ``{echo,transfer}/<socket>/<size>``, ``append/<size>``, ``append-sync/<size>`` for batches and
    ``echo-event/<socket>/<size>``, ``append-sync-event/<size>`` for single events.
    """
    yield "encode", encode()
    yield "decode", decode()
    yield "copy/new", copy(touched=False)
    yield "copy/warm", copy(touched=True)
    for data_size in data_sizes:
        size = size_name(data_size)
        count, batch = Events(data_size).batch()
        event = batch[: len(batch) // count]
        rounds = TOTAL_BYTES // len(batch)
        for family in SOCKETS:
            yield f"transfer/{family}/{size}", transfer(family, batch, count, rounds)
            yield f"echo/{family}/{size}", echo(family, batch, count, max(10, rounds // 4))
            yield (
                f"echo-event/{family}/{size}",
                echo(family, event, 1, min(ECHOES, TOTAL_BYTES // len(event))),
            )
        yield f"append/{size}", append(directory, batch, count, rounds, sync=False)
        yield f"append-sync/{size}", append(directory, batch, count, rounds, sync=True)
        syncs = min(SYNCS, TOTAL_BYTES // len(event))
        yield f"append-sync-event/{size}", append(directory, event, 1, syncs, sync=True)


def percentiles(laps: list[float]) -> Measures:
    """Median and 99th percentile of durations in seconds, as microseconds."""
    hundredths = statistics.quantiles(laps, n=100)
    return {"p50_us": hundredths[49] * 1e6, "p99_us": hundredths[98] * 1e6}


def _rates(events: int, size: int, elapsed: float) -> Measures:
    return {"events_per_s": events / elapsed, "mb_per_s": size / elapsed / 1e6}


def _per_event(function: Callable[[T], object], values: list[T], count: int) -> Measures:
    start = time.perf_counter()
    for _ in range(count // len(values)):
        for value in values:
            function(value)
    elapsed = time.perf_counter() - start
    return {"events_per_s": count / elapsed}


@contextlib.contextmanager
def _peer(serve: Callable[..., None], family: str, *args: int) -> Iterator[str | tuple[str, int]]:
    """A process that runs ``serve(listener, *args)``; gives the address it listens on."""
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = SPAWN.Pipe()
        path = os.path.join(directory, "peer") if family == "unix" else ""
        process = SPAWN.Process(target=_listen, args=(theirs, serve, path, args), daemon=True)
        process.start()
        theirs.close()
        try:
            yield ours.recv()
        finally:
            process.terminate()
            process.join()


def _listen(pipe: Connection, serve: Callable[..., None], path: str, args: tuple[int, ...]) -> None:
    if path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
    _tune(listener)
    pipe.send(listener.getsockname())
    serve(listener, *args)


def _tune(peer: socket.socket) -> None:
    """What any good program sets: room for a megabyte in flight, and no waiting for more to send."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    if peer.family == socket.AF_INET:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _connected(address: str | tuple[str, int]) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    _tune(peer)
    peer.connect(address)
    return peer


def _serve_sink(listener: socket.socket, batch_size: int, rounds: int) -> None:
    peer, _ = listener.accept()
    buffer = bytearray(batch_size)
    for batches in (1, rounds):
        missing = batches * batch_size
        while missing:
            received = peer.recv_into(buffer, min(batch_size, missing))
            if received == 0:
                return
            missing -= received
        peer.sendall(b"=")


def _serve_echo(listener: socket.socket) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = (
            await loop.create_unix_server(_Echo, sock=listener)
            if listener.family == socket.AF_UNIX
            else await loop.create_server(_Echo, sock=listener)
        )
        await server.serve_forever()

    uvloop.run(serve())


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.WriteTransport, transport).write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def _ping(address: str | tuple[str, int], message: bytes, rounds: int) -> list[float]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[float]] = loop.create_future()
    sock = _connected(address)
    sock.setblocking(False)

    def protocol() -> _Ping:
        return _Ping(message, rounds, done)

    if isinstance(address, str):
        await loop.create_unix_connection(protocol, sock=sock)
    else:
        await loop.create_connection(protocol, sock=sock)
    return await done


class _Ping(_Echo):
    """Sends the message, and again whenever all of it is back; durations of the round trips go to `done`."""

    def __init__(self, message: bytes, rounds: int, done: asyncio.Future[list[float]]) -> None:
        self.message = message
        self.rounds = rounds
        self.done = done
        self.laps: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send()

    def send(self) -> None:
        self.missing = len(self.message)
        self.start = time.perf_counter()
        self.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        self.laps.append(time.perf_counter() - self.start)
        if len(self.laps) < self.rounds:
            self.send()
        else:
            self.done.set_result(self.laps)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the echoing peer broke off"))


def main() -> None:
    for name, measures in measure([0, 128, 1 << 10, 64 << 10, 1 << 20], Path(tempfile.gettempdir())):
        figures = "  ".join(f"{key} {value:,.1f}" for key, value in measures.items())
        print(f"{name:28} {figures}", flush=True)


if __name__ == "__main__":
    main()
