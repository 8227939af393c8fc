"""diaspora-ctl, called as a program calls it, with a driver that keeps topics in a file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diaspora_stream.ctl.main import main
from diaspora_stream.ctl.options import DRIVER_OPTIONS

HERE = str(Path(__file__).parent)
DRIVER = "Topics:topics_driver"


def run(command: str) -> int:
    return main(command.split())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of topics; a driver that uses it is preset."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "topics.json"
    monkeypatch.setenv(DRIVER_OPTIONS, f"--driver {DRIVER} --driver.file '{path}'")
    return path


def stored(file: Path, name: str) -> Any:
    return json.loads(file.read_text())[name]


def test_create_passes_the_options_verbatim(file: Path) -> None:
    code = run(
        "topic create --name my_topic --topic.config.type default --topic.num_partitions 1 "
        "--topic.config.partition.path /tmp/mofka --topic.config.partition.sync false "
        "--topic.dependencies.io_controller io_controller --topic.dependencies.pool __primary__"
    )
    assert code == 0
    assert stored(file, "my_topic") == {
        "options": {
            "config": {"type": "default", "partition": {"path": "/tmp/mofka", "sync": False}},
            "num_partitions": 1,
            "dependencies": {"io_controller": "io_controller", "pool": "__primary__"},
        },
        "note": None,
        "validator": None,
        "serializer": None,
        "partition_selector": None,
    }


def test_files_are_the_base_and_the_command_line_wins(file: Path, tmp_path: Path) -> None:
    (tmp_path / "topic.json").write_text(
        '{"max_chunk_size": 5, "config": {"partition": {"path": "/a", "x": 1}}}'
    )
    (tmp_path / "driver.json").write_text('{"file": "/nowhere", "note": 7}')
    (tmp_path / "validator.json").write_text('{"type": "default", "schema": {"type": "object"}}')
    (tmp_path / "serializer.json").write_text('{"schema": true}')
    code = run(
        "topic create --name t --topic-config topic.json --topic.config.partition.path /b "
        "--driver-config driver.json --validator schema --validator-config validator.json "
        "--validator.schema.minProperties 2 --serializer schema --serializer-config serializer.json "
        "--partition-selector default"
    )
    assert code == 0
    assert stored(file, "t") == {
        "options": {"max_chunk_size": 5, "config": {"partition": {"path": "/b", "x": 1}}},
        "note": 7,
        "validator": {"type": "schema", "schema": {"type": "object", "minProperties": 2}},
        "serializer": {"type": "schema", "schema": True},
        "partition_selector": {"type": "default"},
    }


def test_component_options_without_the_component_are_not_used(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("topic create --name t --validator.schema x") == 0
    assert stored(file, "t")["validator"] is None
    assert "not used without --validator NAME" in capsys.readouterr().err


def test_list_prints_sorted_names_and_json_when_verbose(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topic", "list"]) == 0
    assert capsys.readouterr().out == ""
    file.write_text('{"b": {"z": 1, "a": [2]}, "a": {}}')
    assert main(["topic", "list"]) == 0
    assert capsys.readouterr().out == "a\nb\n"
    assert main(["topic", "list", "-v"]) == 0
    assert capsys.readouterr().out == 'a {}\nb {"a":[2],"z":1}\n'


def test_delete_takes_one_topic_and_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        run(f"topic create --name {name}")
    capsys.readouterr()
    assert run("topic delete --name a") == 0
    assert "deleted topic a" in capsys.readouterr().err
    assert list(json.loads(file.read_text())) == ["b"]
    assert run("topic delete --name a") == 1
    assert capsys.readouterr().err.startswith("Error: topic 'a' does not exist; known are 'b'")
    assert run("topic delete") == 1
    assert "--name must be given" in capsys.readouterr().err


def test_create_logs_three_lines_to_standard_error(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("topic create --name t") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3
    for line in err.splitlines():
        assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\] \[info\] .*", line)
    assert run("topic create --name u --logging warn") == 0
    assert capsys.readouterr() == ("", "")


def test_warnings_name_the_flag_that_was_typed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("topic create --name t --logging warn --topic.odd 1") == 0
    assert capsys.readouterr().err.endswith("[warning] --topic.odd has no effect\n")


def test_the_command_line_wins_over_the_preset_driver(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"elsewhere": {}}')
    assert main(["topic", "list", "--driver", DRIVER, "--driver.file", str(other)]) == 0
    assert capsys.readouterr().out == "elsewhere\n"


def test_preset_options_are_quoted_as_in_a_shell(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        DRIVER_OPTIONS, rf"""--driver {DRIVER} --driver.file '{file}' --driver.note "a \"b\" \\ c"'\'\ d"""
    )
    assert run("topic create --name t") == 0
    assert stored(file, "t")["note"] == r"""a "b" \ c\ d"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("topic create", "--name must be given"),
        ("topic create --nmae x", "unknown argument '--nmae'; did you mean '--name'"),
        ("topic create --name a --name b", "--name is given twice"),
        ("topic create --name a --logging loud", "--logging: unknown level 'loud'"),
        (
            "topic create --name a --topic-config missing.json",
            "Error: --topic-config missing.json: cannot be read",
        ),
        ("topic create --name a --topic-config bad.json", "Error: bad.json: not valid JSON at byte 1"),
        (
            "topic create --name a --topic-config list.json",
            "Error: list.json: must hold a JSON object, holds [1]",
        ),
        (
            "topic create --name a --validator shema",
            "Error: --validator: nothing is installed under the name 'shema'",
        ),
        ("topic create --name a --validator schema", "Error: --validator.schema: missing"),
        (
            "topic create --name a --topic.bad.field 1",
            "Error: --topic.bad.field: must not be there, --topic.good is",
        ),
        (
            "topic create --name a --topic-config bad-field.json",
            "Error: options.bad.field: must not be there, options.good is",
        ),
        ("topic create --name old", "Error: topic 'old' already exists"),
        ("topic list --driver mofk", "did you mean 'mofka'"),
        ("topic lst", "unknown action 'lst' of topic; did you mean 'list'"),
        ("topic", "topic needs an action"),
        ("topics list", "unknown command 'topics'; did you mean 'topic'"),
    ],
)
def test_what_goes_wrong_is_said_on_standard_error_and_exits_with_1(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    file.write_text('{"old": {}}')
    (tmp_path / "bad.json").write_text("{x")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bad-field.json").write_text('{"bad": {"field": 1}}')
    assert run(arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert json.loads(file.read_text()) == {"old": {}}


@pytest.mark.parametrize("preset", ["--driver 'x", "--topic.a 1", "--driver"])
def test_a_preset_that_is_not_understood_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], preset: str
) -> None:
    monkeypatch.setenv(DRIVER_OPTIONS, preset)
    assert main(["topic", "list"]) == 1
    assert f"{DRIVER_OPTIONS}: " in capsys.readouterr().err


def test_help_and_version_are_results(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--help"], "topic create"),
        (["topic", "--help"], "create"),
        (["topic", "create", "-h"], "--topic.<field> VALUE"),
        (["topic", "list", "--help"], "--verbose"),
        (["--version"], "."),
        (["topic", "list", "--version"], "."),
    ):
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert expected in out
        assert err == ""
    assert main([]) == 1
    assert "topic create" in capsys.readouterr().out


def test_the_program_runs_as_a_process(file: Path) -> None:
    file.write_text('{"only": {}}')
    program = "import sys; from diaspora_stream.ctl.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "topic", "list"],
        env={**os.environ, "PYTHONPATH": HERE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "only\n", "")


def test_ctrl_c_ends_a_command_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("diaspora_stream.ctl.drivers.Driver", interrupted)
    assert main(["topic", "list", "--driver", "any"]) == 130
    assert capsys.readouterr() == ("", "")
