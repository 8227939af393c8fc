"""Databases to test against: every backend in place, and one behind an RPC."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.engine import Engine
from mochi.mofka.testing import running
from mochi.yokan.config import open_database
from mochi.yokan.database import Database
from mochi.yokan.handle import DatabaseHandle
from mochi.yokan.module import YokanModule

Serve = Callable[..., AbstractContextManager[DatabaseHandle]]


@contextmanager
def _serve(
    config: dict[str, Any],
    address: str = "na+sm",
    margo: dict[str, Any] | None = None,
    pool: str | None = None,
) -> Iterator[DatabaseHandle]:
    engine = Engine(address, MargoConfig.parse(margo))
    dependencies = {} if pool is None else {"pool": engine.pool(pool)}
    provider = YokanModule().create(engine, "database", 3, config, [], dependencies)
    with closing(provider), running(engine), closing(Client(timeout=10)) as client:
        yield DatabaseHandle(client, engine.address, 3)


@pytest.fixture
def serve() -> Serve:
    """Serves the database of a configuration and hands out a handle of it."""
    return _serve


@pytest.fixture(params=["map", "unordered_map", "rocksdb", "lmdb", "rpc"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of each kind."""
    if request.param == "rpc":
        with _serve({"database": {"type": "map"}}) as handle:
            yield handle
        return
    config = {"path": str(tmp_path / "db")} if request.param in ("rocksdb", "lmdb") else {}
    database, _ = open_database({"database": {"type": request.param, "config": config}})
    yield database
    database.close()
