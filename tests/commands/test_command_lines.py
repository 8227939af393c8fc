"""Every command: its help, its exit statuses, the quirks of its command line, and completion by shells."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from diaspora_stream.benchmarks.consumer import run as consumer_benchmark
from diaspora_stream.benchmarks.producer import run as producer_benchmark
from diaspora_stream.console.commands import INTERRUPTED, Command, Group
from diaspora_stream.console.logs import LEVELS
from diaspora_stream.ctl.main import ctl
from mochi.bedrock import bedrockctl, cli
from mochi.margo import info
from mochi.mofka import fsck, mofkactl

BIN = Path(sys.executable).parent
COMMANDS = {
    "bedrock": cli.bedrock,
    "bedrock-query": cli.query,
    "bedrock-shutdown": cli.shutdown,
    "bedrockctl": bedrockctl.main,
    "margo-info": info.main,
    "diaspora-ctl": ctl,
    "diaspora-producer-benchmark": producer_benchmark,
    "diaspora-consumer-benchmark": consumer_benchmark,
    "benchmark-producer": producer_benchmark,
    "benchmark-consumer": consumer_benchmark,
    "mofka-fsck": fsck.main,
    "mofkactl": mofkactl.main,
}
USAGE_STATUS = {"bedrockctl": 2, "mofkactl": 2, "mofka-fsck": 2}
"""Exit status for a command line that is not understood; 1 of the others."""

DRIVER = "--driver files"

TABLE: list[tuple[str, int, str, str]] = [
    # command line, exit status, in standard output, in standard error
    ("bedrock na+sm --stdin -c x.json", 255, "", "error: -c and --stdin exclude each other\n"),
    ("bedrock na+sm --stdin --config=x.json", 255, "", "error: -c and --stdin exclude each other\n"),
    ("bedrock na+sm -c missing.json", 255, "", "error: missing.json: No such file or directory"),
    ("bedrock na+sm -c bad.json", 255, "", "error: bad.json: "),
    ("bedrock na+sm -v loud", 1, "", "--verbose: unknown level 'loud'"),
    ("bedrock na+sm -v warnin -c bad.json", 1, "", "did you mean 'warning'?"),
    ("bedrock na+sm -v warn -c bad.json", 255, "", "error: "),
    ("bedrock na+sm -v err -c bad.json", 255, "", "error: "),
    ("bedrock na+sm --verbose=off -c bad.json", 255, "", "error: "),
    ("bedrock na+sm -j --jx9-context x", 255, "", "error: --jx9-context: expected NAME=VALUE"),
    ("bedrock na+sm --jx9-context=x=1", 255, "", "error: --jx9-context needs --jx9"),
    ("bedrock na+sm extra", 1, "", "extra"),
    ("bedrock na+sm --conf x", 1, "", "unknown argument '--conf'; did you mean '--config'?"),
    ("bedrock -c bad.json -- na+sm", 255, "", "error: bad.json: "),
    ("bedrock-query", 1, "", "PROTOCOL"),
    ("bedrock-query na+sm", 255, "", "error: no server named; give -a or -f\n"),
    ("bedrock-query na+sm --flock-file=missing.json -w 0", 255, "", "error: missing.json"),
    ("bedrock-query na+sm -a na+sm://nobody -j missing.jx9", 255, "", "error: missing.jx9: No such file"),
    ("bedrock-shutdown", 1, "", "PROTOCOL"),
    ("bedrock-shutdown na+sm", 255, "", "error: no server named; give -a or -f\n"),
    ("bedrock-shutdown na+sm --flock-file missing.json", 255, "", "error: missing.json"),
    ("bedrockctl status", 255, "", "Error: no connection; give -c, or set BEDROCKCTL_CONNECTION"),
    ("bedrockctl activate flock://missing.json", 255, "", "missing.json: no such file"),
    ("bedrockctl activate na+sm://1-0", 0, "export BEDROCKCTL_CONNECTION=na+sm://1-0\n", ""),
    ("bedrockctl pool create", 2, "", "NAME"),
    ("bedrockctl pool crate x", 2, "", "unknown action 'crate' of pool; did you mean 'create'?"),
    ("bedrockctl statsu", 2, "", "unknown command 'statsu'; did you mean 'status'?"),
    ("bedrockctl", 2, "pool create", "bedrockctl needs a command; known are 'activate', "),
    ("margo-info na+sm", 0, "### shared memory on one node ###\nna+sm://\tna\tsm\tYES\t", ""),
    ("margo-info verbs://", 1, "verbs://\t<any>\tverbs\tNO\tN/A\n", ""),
    ("margo-info na+sm --output=/nowhere/x.json", 1, "", "error: /nowhere/x.json: No such file"),
    ("diaspora-ctl", 1, "topic create", "diaspora-ctl needs a command"),
    ("diaspora-ctl topic", 1, "create", "topic needs an action"),
    ("diaspora-ctl topics list", 1, "", "unknown command 'topics'; did you mean 'topic'?"),
    ("diaspora-ctl topic lst", 1, "", "unknown action 'lst' of topic; did you mean 'list'?"),
    ("diaspora-ctl topic list", 1, "", "--driver must be given"),
    (f"diaspora-ctl topic list {DRIVER} --driver.root_path=d -- --odd", 0, "", ""),
    (
        f"diaspora-ctl topic list {DRIVER} --driver.root_path d --driver mofka",
        1,
        "",
        "--driver is given twice",
    ),
    (f"diaspora-ctl topic list {DRIVER} --driver.root_path", 1, "", "--driver.root_path lacks its value"),
    (
        f"diaspora-ctl topic list {DRIVER} --driver.=x",
        1,
        "",
        "must be written as '--driver.some.field value'",
    ),
    (f"diaspora-ctl topic list {DRIVER} --logging loud", 1, "", "--logging: unknown level 'loud'"),
    (f"diaspora-ctl topic list {DRIVER} --logging=warn --driver.root_path=d", 0, "", ""),
    (f"diaspora-ctl topic list {DRIVER} stray", 1, "", "unknown argument 'stray'"),
    (
        f"diaspora-ctl topic create {DRIVER} --nmae x",
        1,
        "",
        "unknown argument '--nmae'; did you mean '--name'?",
    ),
    (
        f"diaspora-ctl topic create {DRIVER} --name x --topic-config missing.json",
        1,
        "",
        "Error: --topic-config",
    ),
    (f"diaspora-ctl topic create {DRIVER} --name=t --driver.root_path=d", 0, "", "[info] created topic t\n"),
    (
        f"diaspora-ctl topic delete {DRIVER} --name t --driver.root_path d",
        1,
        "",
        "Error: topic 't' does not exist",
    ),
    ("diaspora-ctl fifo --driver files", 1, "", "--control-file must be given"),
    ("diaspora-ctl forward", 1, "", "--config must be given"),
    ("diaspora-ctl forward --config missing.yaml", 1, "", "Error: --config missing.yaml: cannot be read"),
    ("diaspora-ctl forward --config=empty.yaml", 0, "", "nothing to forward"),
    *(
        (f"{program} {arguments}", status, "", text)
        for program in COMMANDS
        if "benchmark" in program
        for arguments, status, text in (
            ("-t t", 1, "--driver must be given"),
            ("-d files", 1, "--topic must be given"),
            ("-d files -t t -n many", 1, "many"),
            ("-d files -t t -n -1", 1, "-1"),
            ("-d files -t t -t u", 1, "--topic is given twice"),
            ("-d files -t t --odd", 1, "unknown argument '--odd'"),
            ("-d files -t t --num-events=1 -n", 1, "-n lacks its value"),
            ("-d files -t t --driver.root_path=d", 255, "diaspora error: topic 't' does not exist"),
        )
    ),
    ("benchmark-consumer -d files -t t -i 2", 1, "", "2"),
    ("mofka-fsck", 2, "", "PATH"),
    ("mofka-fsck missing", 2, "", "missing"),
    ("mofka-fsck .", 2, "", "has neither files of a partition nor directories named"),
    ("mofkactl", 2, "topic create", "mofkactl needs a command"),
    ("mofkactl topic creat x", 2, "", "unknown action 'creat' of topic; did you mean 'create'?"),
    ("mofkactl topic list -g missing.json", 255, "", "Error: "),
    ("mofkactl partition add t", 2, "", "--rank must be given"),
    ("mofkactl partition add t -r 0 --c.a", 2, "", "--c.a lacks its value"),
    ("mofkactl partition add t -r 0 --c.a=1 --c.a.b 2", 2, "", "--c.a.b: a has a value already"),
    (
        "mofkactl partition add t -r 0 -t memory --abt-io x",
        2,
        "",
        "--abt-io is for partitions of type default",
    ),
    ("mofkactl config generate -a na+sm -s 2,1", 2, "", "2,1"),
    ("mofkactl config generate --address=na+sm", 0, '"libraries": [', ""),
    (
        "mofkactl benchmark generate -a na+sm --whatever 1,2",
        255,
        "",
        "Error: the program that this configured is gone",
    ),
]


def status_and_output(line: str) -> tuple[int, str, str]:
    name, *arguments = line.split()
    done = CliRunner().invoke(COMMANDS[name], arguments, prog_name=name)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DIASPORA_CTL_DRIVER_OPTIONS", raising=False)
    (tmp_path / "bad.json").write_text("{x")
    (tmp_path / "empty.yaml").write_text("{drivers: {}, forward: []}")


def test_the_table_has_all_commands() -> None:
    ours = {
        point.name: point
        for point in entry_points(group="console_scripts")
        if point.dist and point.dist.name == "mofka"
    }
    assert set(ours) == set(COMMANDS) == {line.split()[0] for line, *_ in TABLE}
    for name, command in COMMANDS.items():
        assert isinstance(command, Command)
        if name != "diaspora-ctl":
            assert ours[name].load() is command


@pytest.mark.parametrize(("line", "status", "out", "err"), TABLE, ids=[line for line, *_ in TABLE])
def test_a_command_line_has_its_exit_status_and_its_words(line: str, status: int, out: str, err: str) -> None:
    found, stdout, stderr = status_and_output(line)
    assert found == status, stderr
    assert out in stdout
    assert err in stderr
    if stderr.startswith("Usage: "):
        assert stdout == ""
    assert "Traceback" not in stderr


def every_level(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    paths = [path]
    if isinstance(command, Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            paths += every_level(inner, (*path, name))
    return paths


@pytest.mark.parametrize("name", COMMANDS)
def test_every_level_has_help_and_refuses_what_it_does_not_know(name: str) -> None:
    usage = USAGE_STATUS.get(name, 1)
    for path in every_level(COMMANDS[name], (name,)):
        line = " ".join(path)
        for flag in ("-h", "--help"):
            status, out, err = status_and_output(f"{line} {flag}")
            assert (status, err) == (0, ""), line
            assert out.startswith(f"Usage: {line} ")
        if path[-2:] != ("benchmark", "generate"):
            status, out, err = status_and_output(f"{line} --no-such-flag")
            assert (status, out) == (usage, ""), line
            assert "unknown argument '--no-such-flag'" in err
    status, out, err = status_and_output(f"{name} --version")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", out)


def test_ctrl_c_is_a_status_of_its_own_and_no_word() -> None:
    @click.command(cls=Command)
    def interrupted() -> None:
        raise KeyboardInterrupt

    done = CliRunner().invoke(interrupted)
    assert (done.exit_code, done.stdout, done.stderr) == (INTERRUPTED, "", "")


def complete(program: str, *words: str) -> list[str]:
    """Return what bash would offer for the last word."""
    done = subprocess.run(
        [BIN / program],
        env={
            **os.environ,
            f"_{program.upper().replace('-', '_')}_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join([program, *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_bash_completes_commands_flags_and_levels() -> None:
    assert complete("diaspora-ctl", "t") == ["topic"]
    assert complete("diaspora-ctl", "topic", "") == ["attach", "create", "delete", "list"]
    assert "--driver-config" in complete("diaspora-ctl", "topic", "create", "--dri")
    assert complete("bedrockctl", "pool", "c") == ["create"]
    assert complete("bedrock", "-v", "") == list(LEVELS)
    assert complete("mofkactl", "par") == ["partition"]
    assert "--num-events" in complete("benchmark-producer", "--num")


@pytest.mark.parametrize("program", COMMANDS)
def test_each_program_prints_its_completion_for_bash(program: str) -> None:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    done = subprocess.run(
        [BIN / program],
        env={**os.environ, variable: "bash_source"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"complete -o nosort -F _{program.replace('-', '_')}_completion {program}\n" in done.stdout
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0
