"""A server of one target, for tests."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from mochi.margo.client import Client
from mochi.margo.engine import Engine
from mochi.mofka.testing import running
from mochi.warabi.client import TargetHandle
from mochi.warabi.module import WarabiModule
from mochi.warabi.provider import WarabiProvider

Serve = Callable[..., AbstractContextManager[tuple[WarabiProvider, TargetHandle]]]


@contextmanager
def served(config: dict[str, Any], address: str = "na+sm") -> Iterator[tuple[WarabiProvider, TargetHandle]]:
    engine = Engine(address)
    try:
        provider = WarabiModule().create(engine, "blobs", 5, config, [], {})
    except BaseException:
        engine.finalize()
        engine.run()
        raise
    with closing(provider), running(engine), closing(Client(timeout=10)) as client:
        yield provider, TargetHandle(client, engine.address, 5)


def in_file(path: Path, **fields: Any) -> dict[str, Any]:
    return {"target": {"type": "abtio", "config": {"path": str(path), "create_if_missing": True, **fields}}}
