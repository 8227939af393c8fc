"""The benchmark programs as processes, alone and as ranks of mpirun, against a real service."""

import re
import subprocess

import pytest

from mochi.mofka.testing import BIN, Service
from tests.system.real_service import Machine
from tests.system.test_many_servers import MPI, MPIRUN, needs_mpirun

NUMBER = r"[0-9.e+-]+"
LATENCIES = [f"Batch latency {name}: {NUMBER} ms" for name in ("p50", "p90", "p99", "max")]
WAITS = [f"Pull wait {name}: {NUMBER} ms" for name in ("p50", "p90", "p99", "max")]


class Bench:
    """A service with the topic ``t`` of two partitions."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.server: Service = machine.serve()
        self.driver = machine.driver(self.server)
        self.driver.create_topic("t", options={"num_partitions": 2})
        (self.server.directory / "driver.json").write_text('{"group_file": "mofka.json"}')

    def run(self, program: str, *flags: str, ranks: int = 1) -> "subprocess.CompletedProcess[str]":
        launcher = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else []
        command = [*launcher, str(BIN / program), "-d", "mofka", "-c", "driver.json", "-t", "t", *flags]
        return self.server.run(command, **MPI)

    def measure(self, program: str, *flags: str, ranks: int = 1) -> dict[str, str]:
        """Return what a benchmark prints; the lines of options by their labels, those of results joined."""
        done = self.run(program, *flags, ranks=ranks)
        assert done.returncode == 0, done.stderr
        options, _, results = done.stdout.partition("\n\n--- Benchmark Results ---\n")
        title, *lines = options.splitlines()
        assert title == "--- Benchmark Options ---"
        return dict(line.split(": ", 1) for line in lines) | {"results": results}

    def stored(self) -> list[tuple[str, int]]:
        """Return metadata and size of data of all events."""
        found = []
        with self.driver.open_topic("t").consumer("reader") as consumer:
            while (event := consumer.pull().wait(500)) is not None:
                found.append((event.metadata, sum(map(len, event.data))))
        return found


@pytest.fixture
def bench(machine: Machine) -> Bench:
    return Bench(machine)


def matches(results: str, *lines: str) -> bool:
    return re.fullmatch("\n".join(lines) + "\n", results) is not None


@pytest.mark.parametrize("program", ["diaspora-producer-benchmark", "benchmark-producer"])
def test_the_producer_prints_the_lines_of_the_original_and_percentiles(bench: Bench, program: str) -> None:
    shown = bench.measure(program, "-n", "500", "-m", "20", "-s", "100", "-b", "16", "-f", "100", "-p", "2")
    results = shown.pop("results")
    assert shown == {
        "Driver": "mofka",
        "Driver config file": "driver.json",
        "Topic": "t",
        "Number of events": "500",
        "Data size": "100",
        "Metadata size": "20",
        "Batch size": "16",
        "Number of threads": "2",
        "Flush interval": "100",
    }
    rates = (f"Throughput: {NUMBER} events/s", f"Bandwidth: {NUMBER} MB/s")
    assert matches(results, f"Total time: {NUMBER} s", "Total events: 500", *rates, *LATENCIES), results
    stored = bench.stored()
    assert len(stored) == 500
    assert {(len(metadata), size) for metadata, size in stored} == {(18, 100)}


def test_defaults_and_flags_of_zero_work(bench: Bench) -> None:
    assert bench.measure("benchmark-producer")["Metadata size"] == "0"
    bench.measure("benchmark-producer", "-m", "0", "-f", "0", "-b", "0", "-n", "10")
    assert "Total events: 0" in bench.measure("benchmark-producer", "-n", "0")["results"]
    assert bench.stored() == [("", 0)] * 1010


@pytest.mark.parametrize("program", ["diaspora-consumer-benchmark", "benchmark-consumer"])
def test_the_consumer_prints_the_lines_of_the_original_and_percentiles(bench: Bench, program: str) -> None:
    bench.measure("benchmark-producer", "-n", "400", "-s", "1048", "-b", "50")
    shown = bench.measure(program, "-n", "400", "-i", "0.5", "-s", "0.25")
    results = shown.pop("results")
    assert shown == {
        "Driver": "mofka",
        "Driver config file": "driver.json",
        "Topic": "t",
        "Number of events": "400",
        "Number of threads": "1",
        "Data interest": "0.5",
        "Data selectivity": "0.25",
    }
    rates = (f"Throughput: {NUMBER} events/s", f"Data bandwidth: {NUMBER} MB/s")
    assert matches(results, f"Total time: {NUMBER} s", "Total events: 400 s", *rates, *WAITS), results


def loaded(results: str) -> float:
    """Return the MiB of data that a consumer has loaded."""
    seconds = re.search(r"Total time: (\S+) s", results)
    rate = re.search(r"Data bandwidth: (\S+) MB/s", results)
    assert seconds is not None
    assert rate is not None
    return float(seconds[1]) * float(rate[1])


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ((), 1.0),
        (("-i", "0.5"), 0.5),
        (("-s", "0.25"), 0.25),
        (("-i", "0.5", "-s", "0.5"), 0.25),
        (("-i", "0"), 0),
    ],
)
def test_interest_and_selectivity_are_what_is_loaded(
    bench: Bench, flags: tuple[str, ...], part: float
) -> None:
    bench.measure("benchmark-producer", "-n", "64", "-s", "65536", "-b", "8")
    results = bench.measure("benchmark-consumer", "-n", "64", *flags)["results"]
    assert loaded(results) == pytest.approx(4 * part, rel=1e-3)


@needs_mpirun
def test_figures_are_of_all_ranks(bench: Bench) -> None:
    results = bench.measure("benchmark-producer", "-n", "300", "-s", "4096", "-b", "10", ranks=2)["results"]
    assert "Total events: 600\n" in results
    assert "Batch latency p99" in results
    assert len(bench.stored()) == 600
    results = bench.measure("benchmark-consumer", "-n", "300", ranks=2)["results"]
    assert "Total events: 600 s\n" in results
    assert loaded(results) == pytest.approx(600 * 4096 / 2**20, rel=1e-3)


@needs_mpirun
def test_a_rank_without_a_partition_consumes_nothing(bench: Bench) -> None:
    bench.measure("benchmark-producer", "-n", "20")
    done = bench.run("benchmark-consumer", "-n", "10", ranks=3)
    assert done.returncode == 0, done.stderr
    assert "Total events: 20 s\n" in done.stdout
    assert "rank 2 has no partition" in done.stderr


def test_what_goes_wrong_has_the_exit_codes_of_the_original(bench: Bench) -> None:
    for flags in (("-n", "many"), ("--odd",), ("-i", "2"), ("-n",)):
        done = bench.run("benchmark-consumer", *flags)
        assert (done.returncode, done.stdout) == (1, ""), flags
    done = bench.run(
        "benchmark-producer", "--driver.group_file", "nowhere.json", "--driver.group_file_timeout_ms", "0"
    )
    assert done.returncode == 255
    assert done.stderr.startswith("diaspora error: --driver.group_file: ")
    bench.driver.delete_topic("t")
    done = bench.run("benchmark-producer")
    assert done.returncode == 255
    assert "diaspora error: topic 't' does not exist" in done.stderr


@needs_mpirun
def test_an_error_of_one_rank_ends_all(bench: Bench) -> None:
    bench.driver.delete_topic("t")
    done = bench.run("benchmark-producer", ranks=2)
    assert done.returncode != 0
    assert "diaspora error: topic 't' does not exist" in done.stderr
