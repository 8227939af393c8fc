"""Targets to test against: each kind in this process, and behind an RPC."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mochi.margo.client import Client
from mochi.margo.engine import Engine
from mochi.warabi.client import TargetHandle
from mochi.warabi.module import WarabiModule
from mochi.warabi.provider import WarabiProvider
from mochi.warabi.target import Target

Serve = Callable[..., AbstractContextManager[tuple[WarabiProvider, TargetHandle]]]


@contextmanager
def _serve(config: dict[str, Any], address: str = "na+sm") -> Iterator[tuple[WarabiProvider, TargetHandle]]:
    engine = Engine(address)
    try:
        provider = WarabiModule().create(engine, "blobs", 5, config, [], {})
    except BaseException:
        engine.finalize()
        engine.run()
        raise
    thread = threading.Thread(target=engine.run)
    thread.start()
    client = Client(timeout=10)
    try:
        yield provider, TargetHandle(client, engine.address, 5)
    finally:
        client.close()
        engine.finalize()
        thread.join()
        provider.close()


@pytest.fixture
def serve() -> Serve:
    """Serves the target of a configuration; hands out the provider, and a handle of the target."""
    return _serve


def in_file(path: Path, **fields: Any) -> dict[str, Any]:
    return {"target": {"type": "abtio", "config": {"path": str(path), "create_if_missing": True, **fields}}}


@pytest.fixture(params=["memory", "file", "memory by na+sm", "file by na+sm", "file by tcp"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """An empty target of each kind."""
    kind, _, protocol = request.param.partition(" by ")
    config = in_file(tmp_path / "blobs") if kind == "file" else {}
    with _serve(config, {"": "na+sm", "na+sm": "na+sm", "tcp": "tcp://127.0.0.1"}[protocol]) as served:
        provider, handle = served
        yield handle if protocol else provider.target
