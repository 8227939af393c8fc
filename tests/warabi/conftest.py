"""Targets to test against: each kind in this process, and behind an RPC."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mochi.warabi.target import Target
from tests.warabi.blob_server import Serve, in_file, served


@pytest.fixture
def serve() -> Serve:
    """Serves the target of a configuration; hands out the provider, and a handle of the target."""
    return served


@pytest.fixture(params=["memory", "file", "memory by na+sm", "file by na+sm", "file by tcp"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """An empty target of each kind."""
    kind, _, protocol = request.param.partition(" by ")
    config = in_file(tmp_path / "blobs") if kind == "file" else {}
    with served(config, {"": "na+sm", "na+sm": "na+sm", "tcp": "tcp://127.0.0.1"}[protocol]) as (
        provider,
        handle,
    ):
        yield handle if protocol else provider.target
