"""The benchmark programs run, and find what they look for in the server's traces and directories."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


COLUMNS = ("program", "flags", "row", "measure")


@pytest.mark.parametrize(
    COLUMNS,
    [
        ("threads", ["--only", "both/none"], "both/none", "p50_us"),
        ("pushes", ["--only", "na+sm/memory"], "na+sm/memory", "overhead_us"),
    ],
)
def test_a_program_measures_a_row(
    tmp_path: Path, program: str, flags: list[str], row: str, measure: str
) -> None:
    measures(tmp_path, program, flags, row, measure)


@pytest.mark.long
@pytest.mark.parametrize(
    COLUMNS,
    [
        ("durable", ["--only", "sync/16KiB/alone"], "sync/16KiB/alone", "raw_ratio"),
        ("replay", ["--only", "replay/64KiB", "--bytes", "2000000"], "replay/64KiB", "cold_ratio"),
        ("misuse", ["--quick", "--only", "small-requests"], "small-requests", "per_s"),
        ("servers", ["--only", "tcp/1/2"], "tcp/1/2", "large_per_s"),
        ("attacks", ["--only", "tcp/silent"], "tcp/silent", "connections_per_s"),
        ("fabrics", ["--quick", "--only", "tcp/*"], "tcp/memory/64KiB/1000", "produced_mb_per_s"),
    ],
)
def test_each_other_program_measures_a_row(
    tmp_path: Path, program: str, flags: list[str], row: str, measure: str
) -> None:
    measures(tmp_path, program, flags, row, measure)


def measures(tmp_path: Path, program: str, flags: list[str], row: str, measure: str) -> None:
    """Run a program for one row, and look for it in what it prints and writes."""
    output = tmp_path / "report.json"
    common = ["--repetitions", "1", "--directory", str(tmp_path), "--output", str(output)]
    command = [sys.executable, "-m", f"benchmarks.{program}", *flags, *common]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
    assert f"| {row} |" in done.stdout
    assert json.loads(output.read_bytes())["rows"][row][measure]["median"] > 0
    assert list(tmp_path.iterdir()) == [output], "something is left behind"
