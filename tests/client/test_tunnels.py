"""A client whose copy of the group file has the addresses of forwarded ports, and who can reach no other."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from diaspora_stream.api import Driver
from mochi.margo import transport
from mochi.margo.errors import AddressError
from tests.client.client_server import Server


@contextmanager
def forwarded(address: str) -> Iterator[str]:
    """Forward a port to `address`, as ssh does."""
    listener, here = transport.listen("tcp://127.0.0.1")
    listener.setblocking(True)
    peers: list[socket.socket] = []
    connect = transport.connect

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
                there = connect(address, 20)
            except OSError:
                return
            there.settimeout(None)
            peers.extend((peer, there))
            for way in ((peer, there), (there, peer)):
                threading.Thread(target=pass_on, args=way, daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield here
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(20)
        for peer in peers:
            peer.close()


def test_topics_are_made_written_and_read_through_a_tunnel(
    start_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server("tcp://127.0.0.1")
    real = server.address
    copy = tmp_path / "copy.json"
    with forwarded(real) as here:
        copy.write_text(server.group_file.read_text().replace(real, here))
        assert json.loads(copy.read_text())["members"][0]["address"] == here
        connect = transport.connect

        def only_here(address: str, timeout: float) -> socket.socket:
            if address == real:
                raise AddressError(f"nobody answers at {address}: behind a firewall")
            return connect(address, timeout)

        monkeypatch.setattr(transport, "connect", only_here)
        with Driver(backend="mofka", options={"group_file": str(copy), "timeout_ms": 20000}) as driver:
            driver.create_topic("topic", options={"num_partitions": 2})
            topic = driver.open_topic("topic")
            with topic.producer(batch_size=1) as producer, topic.consumer("c") as consumer:
                for number in range(4):
                    producer.push({"number": number}, b"data").wait(20000)
                found = sorted(consumer.pull().wait(20000).metadata["number"] for _ in range(4))
                assert found == [0, 1, 2, 3]
    monkeypatch.undo()
    with server.driver() as driver:
        assert {partition["address"] for partition in driver.open_topic("topic").partitions} == {real}
