"""`examples/demo.py` and `examples/ingest_directory.py`, run as a user runs them."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from diaspora_stream.api import Driver, TopicHandle

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def processes_in(directory: Path) -> list[str]:
    """Command lines of the processes that work below a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[TopicHandle]:
    demo = load("demo")
    (tmp_path / "config.json").write_text(demo.CONFIG)
    with demo.started(
        "bedrock", "na+sm", "-c", "config.json", directory=tmp_path, stdout=subprocess.PIPE
    ) as server:
        assert any("now running" in line for line in server.stdout)
        with Driver(backend="mofka", options={"group_file": str(tmp_path / "mofka.json")}) as driver:
            driver.create_topic("files", options={"num_partitions": 1, "config": {"type": "memory"}})
            yield driver.open_topic("files")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    directory = tmp_path / "library"
    for name, content in {
        "a.txt": b"alpha",
        "deep/b.txt": b"",
        "skip/c.txt": b"gamma",
        "d.bin": b"delta",
    }.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def test_demo_streams_the_standard_library_and_leaves_nothing_behind(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "every digest agrees" in result.stdout
    assert "demo succeeded" in result.stdout
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_demo_interrupted_by_ctrl_c_ends_its_processes_and_removes_its_directory(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "demo.py"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("diaspora-ctl" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "demo interrupted" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_files_below_an_excluded_directory_are_not_ingested(library: Path) -> None:
    files = load("ingest_directory").files_of(library, "*.txt", ["skip"])
    assert files == [library / "a.txt", library / "deep" / "b.txt"]


def test_what_was_ingested_arrives_whole(topic: TopicHandle, library: Path) -> None:
    ingest = load("ingest_directory")
    with topic.producer() as producer:
        sent = ingest.produce(producer, library, ingest.files_of(library, "*", []))
    with topic.consumer("check") as consumer:
        received, problems = ingest.consume(consumer)
    assert problems == []
    assert sent.startswith("sent 4 files")
    assert received.startswith("received 4 files")


@pytest.mark.parametrize(
    ("data", "size", "copies", "problem"),
    [
        (b"alphb", 5, 1, "a.txt: 5 bytes differ from the 5 that were sent"),
        (b"alph", 5, 1, "a.txt: 4 bytes differ from the 5 that were sent"),
        (b"alpha", 5, 2, "a.txt: came twice"),
        (b"alpha", 5, 0, "missing: 1 files, nothing came for 0.3 s"),
    ],
    ids=["changed byte", "lost byte", "duplicate", "missing file"],
)
def test_consumer_names_the_file_that_is_not_as_it_was_sent(
    topic: TopicHandle, monkeypatch: pytest.MonkeyPatch, data: bytes, size: int, copies: int, problem: str
) -> None:
    ingest = load("ingest_directory")
    monkeypatch.setattr(ingest, "PATIENCE_MS", 300)
    description = {
        "path": "a.txt",
        "size": size,
        "mtime": 0.0,
        "sha256": ingest.sha256([memoryview(b"alpha")]),
    }
    with topic.producer() as producer:
        producer.push({"directory": ".", "files": max(1, copies)})
        for _ in range(copies):
            producer.push(description, data)
    with topic.consumer("check") as consumer:
        _, problems = ingest.consume(consumer)
    assert problems == [problem]


def test_a_service_that_is_not_there_is_one_line_and_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--group-file", str(tmp_path / "none.json"), "--topic", "files", "--consume"]
    monkeypatch.setattr(sys, "argv", ["ingest_directory.py", *flags])
    assert load("ingest_directory").main() == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "none.json: no such group file" in shown.err
