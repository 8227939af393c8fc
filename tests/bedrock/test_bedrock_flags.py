"""Flags of the three commands that need no server."""

import os
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from mochi.bedrock import cli

COMMANDS = {"bedrock": cli.bedrock, "bedrock-query": cli.query, "bedrock-shutdown": cli.shutdown}


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("bedrock", "--jx9-file"),
        ("bedrock", "--jx9-context"),
        ("bedrock", "--yaml"),
        ("bedrock", "-vloud"),
        ("bedrock-query", "--jx9"),
        ("bedrock-query", "-i65535"),
        ("bedrock-shutdown", "-p"),
    ],
)
def test_a_flag_that_means_nothing_is_refused_by_name(command: str, flag: str) -> None:
    result = CliRunner().invoke(COMMANDS[command], ["na+sm", flag])
    assert result.exit_code == 1
    assert re.sub("^-[vi]", "", flag) in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_version_and_help_go_to_standard_output(command: click.Command) -> None:
    version = CliRunner().invoke(command, ["--version"])
    assert (version.exit_code, version.stderr) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", version.stdout)
    for flag in ("-h", "--help"):
        assert CliRunner().invoke(command, [flag]).stdout.startswith("Usage: ")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--jx9", "--toml"], "--jx9 and --toml exclude each other"),
        (["--jx9-context", "x=1"], "--jx9-context needs --jx9"),
        (["-j", "--jx9-context", "x"], '--jx9-context: expected NAME=VALUE, as in x=1,y=2; found "x"'),
        (
            ["-j", "--jx9-context", "a=1,2b=2"],
            '--jx9-context: expected NAME=VALUE, as in x=1,y=2; found "2b=2"',
        ),
        (["-j", "--jx9-context", "a=b"], "--jx9-context a: not JSON, line 1 column 1: Expecting value"),
    ],
)
def test_flags_that_do_not_fit_are_one_line_and_a_failure(flags: list[str], line: str) -> None:
    result = CliRunner().invoke(cli.bedrock, ["na+sm", *flags])
    assert (result.exit_code, result.stderr) == (255, f"error: {line}\n")


@pytest.mark.parametrize("command", ["bedrock-query", "bedrock-shutdown"])
def test_the_protocol_is_required(command: str) -> None:
    result = CliRunner().invoke(COMMANDS[command], [])
    assert result.exit_code == 1
    assert "PROTOCOL" in result.stderr


@pytest.mark.parametrize("command", ["bedrock-query", "bedrock-shutdown"])
def test_a_server_that_is_not_there_is_one_line_that_names_it_once(command: str) -> None:
    address = f"na+sm://not-there-{os.getpid()}"
    result = CliRunner().invoke(COMMANDS[command], ["na+sm", "-a", address])
    assert (result.exit_code, result.stderr) == (
        255,
        f"error: nobody answers at {address}: Connection refused\n",
    )


def test_commands_that_run_no_script_do_not_load_the_parser() -> None:
    code = "import sys, mochi.bedrock.cli; print('lark' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "False\n"
