"""Flags of the three commands that need no server."""

import re

import click
import pytest
from click.testing import CliRunner

from mochi.bedrock import cli

COMMANDS = {"bedrock": cli.bedrock, "bedrock-query": cli.query, "bedrock-shutdown": cli.shutdown}


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("bedrock", "--jx9"),
        ("bedrock", "--jx9-context"),
        ("bedrock", "--toml"),
        ("bedrock", "-vloud"),
        ("bedrock-query", "--jx9-file"),
        ("bedrock-query", "-i65535"),
        ("bedrock-shutdown", "-p"),
    ],
)
def test_a_flag_that_means_nothing_is_refused_by_name(command: str, flag: str) -> None:
    result = CliRunner().invoke(COMMANDS[command], ["na+sm", flag])
    assert result.exit_code == 2
    assert re.sub("^-[vi]", "", flag) in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_version_and_help_go_to_standard_output(command: click.Command) -> None:
    version = CliRunner().invoke(command, ["--version"])
    assert (version.exit_code, version.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version.stdout)
    for flag in ("-h", "--help"):
        assert CliRunner().invoke(command, [flag]).stdout.startswith("Usage: ")


@pytest.mark.parametrize("command", ["bedrock-query", "bedrock-shutdown"])
def test_the_protocol_is_required(command: str) -> None:
    result = CliRunner().invoke(COMMANDS[command], [])
    assert result.exit_code == 2
    assert "PROTOCOL" in result.stderr
