"""The command ``mofka-fsck``: what it prints, in words and JSON, and its exit status."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mochi.mofka.chunks import Batch, CorruptPartition, Origin, PartitionDirectory

COMMAND = str(Path(sys.executable).parent / "mofka-fsck")
PARTITIONS = Path(__file__).parents[1] / "data" / "partitions"
NAME = "topic-01234567-89ab-cdef-0123-456789abcdef"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def run_json(*arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
    done = run("--json", *arguments)
    answer = json.loads(done.stdout)
    assert answer["status"] == done.returncode
    return done.returncode, answer["partitions"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make a partition of six events, in two batches."""
    with PartitionDirectory.open(tmp_path / NAME) as store:
        for number in range(2):
            batch = Batch(
                np.full(3, 2, np.uint32),
                [b"{}" * 3],
                np.full(3, 100, np.uint64),
                [memoryview(bytes([number + 1]) * 300)],
                Origin(b"producer" * 2, number),
            )
            store.append([batch], {"analysis": 3})
    return tmp_path / NAME


def damaged(directory: Path) -> Path:
    with (directory / "chunk-000000.data").open("r+b") as file:
        file.write(b"x")
    return directory


def test_a_sound_partition_is_described_in_words(directory: Path) -> None:
    done = run("-v", directory)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == str(directory)
    assert "  events      0 to 5 (6): 6 verified" in lines
    assert "  result      sound" in lines
    assert f"\t{(b'producer' * 2).hex()}\t2\t3" in lines
    assert "\tanalysis\t3" in lines
    assert "\033" not in done.stdout


def test_damage_is_exit_status_1_and_names_file_bytes_and_events(directory: Path) -> None:
    done = run(damaged(directory))
    assert done.returncode == 1
    assert (
        "  lost        chunk-000000.data (bytes 0 to 300) do not match their checksum; events 0 to 2\n"
        in done.stdout
    )
    assert "  result      damaged: of 6 events 3 cannot be read\n" in done.stdout


def test_json_has_all_of_the_report(directory: Path) -> None:
    status, (partition,) = run_json(damaged(directory))
    assert status == 1
    assert partition["directory"] == str(directory)
    assert partition["findings"] == [
        {
            "effect": "lost",
            "file": "chunk-000000.data",
            "problem": "do not match their checksum",
            "begin": 0,
            "end": 300,
            "first": 0,
            "count": 3,
            "repair": "",
        }
    ]
    assert {key: partition[key] for key in ("first", "count", "verified", "unverified", "lost")} == {
        "first": 0,
        "count": 6,
        "verified": 3,
        "unverified": 0,
        "lost": 3,
    }
    assert partition["producers"] == [{"identity": (b"producer" * 2).hex(), "next": 2, "first_ids": [0, 3]}]
    assert partition["cursors"] == {"analysis": 3}
    assert partition["closed"] is True
    assert partition["epoch"] > 0
    assert [chunk["lost"] for chunk in partition["chunks"] if chunk["count"]] == [3]


def test_all_partitions_of_a_base_directory_are_checked(directory: Path) -> None:
    (source,) = PARTITIONS.glob("mixed-*/")
    shutil.copytree(source, directory.parent / source.name)
    (directory.parent / "master").mkdir()
    (directory.parent / "other-01234567-89ab-cdef-0123-456789abcdef").mkdir()
    shutil.copytree(directory, f"{directory}.deleted-0")
    shutil.copytree(directory, directory.with_name(f".deleted-{directory.name[-36:]}"))
    damaged(directory)
    status, partitions = run_json(directory.parent)
    assert status == 1
    assert [(Path(each["directory"]).name.split("-")[0], each["status"]) for each in partitions] == [
        ("mixed", 0),
        ("other", 0),
        ("topic", 1),
    ]
    assert [each["foreign"] for each in partitions] == [True, True, False]
    assert run(directory.parent).stdout.endswith("\n2 of 3 partitions are sound\n")


@pytest.mark.parametrize("what", ["missing", "a file", "without partitions"])
def test_what_cannot_be_checked_is_exit_status_2_and_a_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "path"
    if what == "a file":
        path.touch()
    elif what == "without partitions":
        path.mkdir()
        (path / "something").touch()
    done = run(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert str(path) in done.stderr


@pytest.mark.parametrize(
    "name", ["chunk-000000.data", "mofka-000000.seals", "mofka.journal", "mofka.ledger-0", "mofka.lock"]
)
@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file_in_the_place_of_one_is_refused_by_name(
    directory: Path, name: str, kind: str
) -> None:
    (directory / name).unlink()
    if kind == "directory":
        (directory / name).mkdir()
        problem = "is a directory, not a file"
    else:
        os.mkfifo(directory / name)
        problem = "is not a regular file"
    before = sorted(directory.iterdir())
    for flags in ([], ["--repair"]):
        done = run(*flags, directory)
        assert done.returncode == 1
        assert f"  refused     {directory / name} {problem}" in done.stdout
        assert done.stdout.endswith("damaged; a server refuses to open it, and a repair changes nothing\n")
    if name != "mofka.lock":
        with pytest.raises(CorruptPartition, match=problem):
            PartitionDirectory.open(directory)
    assert sorted(directory.iterdir()) == before


def test_a_directory_in_the_place_of_a_file_does_not_keep_the_others_from_being_checked(
    directory: Path,
) -> None:
    (source,) = PARTITIONS.glob("mixed-*/")
    other = shutil.copytree(source, directory.parent / source.name)
    (other / "chunk-000002.data").unlink()
    (other / "chunk-000002.data").mkdir()
    status, (first, second) = run_json(directory.parent)
    assert (status, first["status"], second["status"]) == (1, 1, 0)
    assert [finding["file"] for finding in first["findings"]] == ["chunk-000002.data"]


def test_a_repair_announces_what_it_does_and_gives_the_status_of_what_is_left(directory: Path) -> None:
    index = (directory / "chunk-000000.idx").read_bytes()
    (directory / "chunk-000000.idx").write_bytes(b"?" * len(index))
    done = run("--repair", directory)
    assert done.returncode == 0
    assert (
        "  chunk-000000.idx: makes it again from the seals, and keeps what is there in quarantine\n"
        in done.stdout
    )
    assert (directory / "chunk-000000.idx").read_bytes() == index
    assert (directory / "quarantine-000000-idx-0").read_bytes() == b"?" * len(index)
    assert "there is nothing that a repair can do" in run("--repair", directory).stdout
    status, (partition,) = run_json("--repair", damaged(directory))
    assert (status, partition["repaired"], partition["concerned"]) == (1, [], [])


@pytest.mark.parametrize(("mode", "expected"), [(0o700, 0o600), (0o770, 0o664)])
def test_what_a_repair_makes_is_for_whom_the_directory_is_for(
    directory: Path, mode: int, expected: int
) -> None:
    directory.chmod(mode)
    (directory / "chunk-000000.idx").write_bytes(b"?" * 6 * 48)
    before = os.umask(0o002)
    try:
        assert run("--repair", directory).returncode == 0
    finally:
        os.umask(before)
    assert (directory / "quarantine-000000-idx-0").stat().st_mode & 0o777 == expected


def test_a_partition_in_use_is_checked_and_not_repaired(directory: Path) -> None:
    with PartitionDirectory.open(directory):
        (directory / "chunk-000000.desc").write_bytes(b"?" * 336)
        done = run("--repair", directory)
        assert done.returncode == 2
        assert f"  in use      {directory}/mofka.lock is locked by process {os.getpid()} on" in done.stdout
        assert "  not done    cannot repair" in done.stdout
        assert done.stdout.endswith("  result      not repaired\n")
        assert "chunk-000000.desc (bytes 0 to 336)" in done.stdout
        assert run(directory).returncode == 1


def test_an_interrupted_check_says_so(tmp_path: Path) -> None:
    (source,) = PARTITIONS.glob("plain-*/")
    directory = shutil.copytree(source, tmp_path / source.name)
    os.truncate(directory / "chunk-000000.data", 100 << 30)  # takes long to read, and no space
    process = subprocess.Popen(
        [COMMAND, directory], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        while f"{directory}/chunk-000000.data" not in opened_by(process.pid):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (130, "interrupted\n")


def opened_by(pid: int) -> list[str]:
    """Give the paths of the files that a process has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except OSError:
            continue
    return found
