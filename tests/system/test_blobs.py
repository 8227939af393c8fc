"""Targets of regions as a deployment has them: by a configuration, reached with the token of the group file."""

import json
from pathlib import Path

import pytest

from mochi.flock import group_file
from mochi.margo.errors import MargoError
from mochi.mofka.testing import configuration
from mochi.warabi.client import Client
from tests.system.real_service import Machine


def test_a_target_is_deployed_shown_and_there_again_after_a_kill(machine: Machine, tmp_path: Path) -> None:
    settings = configuration()
    settings["libraries"].insert(2, "libwarabi-bedrock-module.so")
    target = {"type": "abtio", "config": {"path": str(tmp_path / "blobs"), "create_if_missing": True}}
    settings["providers"] += [
        {
            "name": "blobs",
            "type": "warabi",
            "provider_id": 7,
            "tags": ["mofka:data"],
            "config": {"target": target},
        },
        {"name": "scratch", "type": "warabi", "provider_id": 8, "config": {"target": {"type": "memory"}}},
    ]
    server = machine.serve(settings)
    token = group_file.read(str(server.group_file)).token
    with Client("na+sm") as client:
        handle = client.make_target_handle(server.address, 7, token)
        region = handle.create_write(b"image" * 1000, persist=True)
        scratch = client.make_target_handle(server.address, 8, token)
        assert bytes(scratch.read(scratch.create_write(b"abc"), [(1, 2)])) == b"bc"
    (shown,) = json.loads(server.run("bedrock-query na+sm -f mofka.json").stdout).values()
    (blobs,) = [provider for provider in shown["providers"] if provider["name"] == "blobs"]
    assert blobs["config"]["target"]["config"]["path"] == str(tmp_path / "blobs")
    assert blobs["config"]["transfer_manager"]["type"] == "__default__"
    server.kill()
    server = machine.serve(settings)
    with Client() as client, pytest.raises(MargoError, match="token"):
        client.make_target_handle(server.address, 7).read(region, [(0, 5)])
    with Client() as client:
        handle = client.make_target_handle(server.address, 7, group_file.read(str(server.group_file)).token)
        assert bytes(handle.read(region, [(4995, 5)])) == b"image"
