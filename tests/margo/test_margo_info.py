"""What ``margo-info`` says of this machine: which forms start, really tried, and why the others do not."""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mochi.margo.fabric import NoFabric, load
from mochi.margo.info import FORMS, Form, try_form

COMMAND = str(Path(sys.executable).parent / "margo-info")
OURS = {"ofi+tcp://", "na+sm://", "tcp://", "sm://"}
with suppress(NoFabric):
    load()
    OURS |= {"ofi+tcp;ofi_rxm://"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_all_forms_are_tried_and_those_that_start_come_first(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    done = run("-o", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    banner, *lines = done.stdout.splitlines()
    assert socket.gethostname() in banner
    shown = [line.split("\t") for line in lines if "\t" in line]
    assert [line[3] for line in shown] == ["YES"] * len(OURS) + ["NO"] * (23 - len(OURS))
    assert {line[0] for line in shown[: len(OURS)]} == OURS
    records = json.loads(path.read_text())
    assert [record["addr"] for record in records] == [form.addr for form in FORMS]
    assert [record["index"] for record in records] == list(range(23))
    for record in records:
        columns = [record[key] for key in ("addr", "xport", "proto", "result", "example_runtime_addr")]
        assert lines[lines.index("\t".join(columns)) - 1] == f"### {record['desc']} ###"
        if record["result"] == "NO":
            assert record["example_runtime_addr"] == "N/A"
            assert f"  {record['reason']}" in lines
    assert "\033" not in done.stdout


@pytest.mark.parametrize("form", [form for form in FORMS if form.addr in OURS], ids=lambda form: form.addr)
def test_the_address_shown_is_one_that_was_listened_on_and_is_free_again(form: Form) -> None:
    before = os.listdir("/proc/self/fd")
    trial = try_form(form)
    assert trial.address is not None
    assert trial.address.startswith(("ofi+tcp://", "na+sm://", "ofi+tcp;ofi_rxm://"))
    assert not trial.address.endswith(":0")
    assert os.listdir("/proc/self/fd") == before


def test_one_address_is_tried_alone_and_a_failure_is_the_exit_code() -> None:
    done = run("tcp://127.0.0.1")
    assert done.returncode == 0
    assert "tcp://127.0.0.1\t<any>\ttcp\tYES\tofi+tcp://127.0.0.1:" in done.stdout
    assert "na+sm" not in done.stdout.split("\n\n")[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"ofi+tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = run(address)
    assert done.returncode == 1
    assert (
        f"{address}\tofi\ttcp\tNO\tN/A\n  cannot listen on {address}: Address already in use" in done.stdout
    )
    done = run("ofi+tpc://")
    assert done.returncode == 1
    assert "protocol 'ofi+tpc' is not one of" in done.stdout
    assert "did you mean 'ofi+tcp'?" in done.stdout


def test_wrong_flags_and_files_are_one_complaint_and_exit_code_1() -> None:
    done = run("--list")
    assert (done.returncode, done.stdout) == (1, "")
    assert "unknown argument '--list'" in done.stderr
    done = run("na+sm", "-o", "/nowhere/results.json")
    assert done.returncode == 1
    assert done.stderr == "error: /nowhere/results.json: No such file or directory\n"


def test_libraries_are_listed_or_said_to_be_missing() -> None:
    done = run("-l", "na+sm")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nlibfabric: " in done.stdout


def test_the_self_test_reports_what_a_fabric_does() -> None:
    if "ofi+tcp;ofi_rxm://" not in OURS:
        pytest.skip("no libfabric here")
    done = run("--selftest", "ofi+tcp;ofi_rxm://127.0.0.1")
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"], report["problems"]) == (0, True, [])
    assert report["provider"] in ("tcp", "tcp;ofi_rxm")
    assert [read["bytes"] for read in report["reads"]][-1] == 64 << 20


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("cxi", "offers no 'cxi' here"),
        ("tcp", "names no fabric; ofi+verbs, ofi+cxi or ofi+efa do"),
        ("ofi+shm", "use na+sm"),
    ],
)
def test_the_self_test_of_what_is_not_there_says_why(address: str, problem: str) -> None:
    if "ofi+tcp;ofi_rxm://" not in OURS:
        pytest.skip("no libfabric here")
    done = run("--selftest", address)
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"]) == (1, False)
    assert problem in report["problems"][0]


def test_a_server_on_a_card_that_is_not_there_says_what_margo_info_does() -> None:
    bedrock = subprocess.run(
        [str(Path(COMMAND).with_name("bedrock")), "verbs"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    (said,) = [trial.reason for trial in map(try_form, FORMS) if trial.form.addr == "verbs://"]
    assert bedrock.returncode == 255
    assert bedrock.stderr.removeprefix("error: ").replace("'verbs'", "'verbs://'", 1).strip() == said
