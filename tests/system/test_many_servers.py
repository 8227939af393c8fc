"""Services of several servers: by mpirun, by ``bedrock -n``, one of them again alone, one that joins."""

import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mochi.flock import group_file
from mochi.flock.client import talking_to
from mochi.mofka.testing import BIN, READY, Service
from tests.system.real_service import Machine, spread

MPIRUN = BIN / "mpirun"
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
"""What Open MPI wants where the user is root, or the cores are fewer than the servers."""

needs_mpirun = pytest.mark.skipif(not MPIRUN.exists(), reason="there is no mpirun beside this Python")


def check_streams(machine: Machine, service: Service, size: int, name: str = "topic") -> None:
    """Check that a topic over all servers takes events and gives them back."""
    driver = machine.driver(service)
    assert driver.num_servers == size  # type: ignore[attr-defined]
    driver.create_topic(name, options={"num_partitions": size})
    topic = driver.open_topic(name)
    assert len({partition["address"] for partition in topic.partitions}) == size
    with topic.producer() as producer:
        for number in range(10 * size):
            producer.push({"number": number}, partition=number % size)
        producer.flush().wait(10000)
    with topic.consumer("c") as consumer:
        events = [consumer.pull().wait(10000) for _ in range(10 * size)]
    assert sorted(event.metadata["number"] for event in events if event is not None) == list(range(10 * size))


def check_group(service: Service) -> None:
    """Check that one group file has all servers, by their ranks, and is for its user alone."""
    members = service.members()
    assert [member["rank"] for member in members] == list(range(len(service.addresses)))
    assert sorted(member["address"] for member in members) == sorted(service.addresses)
    shown = json.loads(service.group_file.read_text())["members"]
    assert shown == sorted(shown, key=lambda member: (member["address"], member["provider_id"]))
    assert stat.S_IMODE(service.group_file.stat().st_mode) == 0o600


def providers(machine: Machine, service: Service) -> dict[str, set[str]]:
    """Return the names of the providers of each server, as ``bedrock-query`` shows them."""
    answer = service.run("bedrock-query tcp -f mofka.json -v off")
    assert answer.returncode == 0, answer.stderr
    return {
        address: {provider["name"] for provider in shown["providers"]}
        for address, shown in json.loads(answer.stdout).items()
    }


@needs_mpirun
@pytest.mark.parametrize("size", [2, 4])
def test_mpirun_makes_one_service_of_many_processes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for name, value in MPI.items():
        monkeypatch.setenv(name, value)
    command = (
        str(MPIRUN),
        "-np",
        str(size),
        str(BIN / "bedrock"),
        "na+sm",
        "-c",
        "config.json",
        "-v",
        "trace",
    )
    service = machine.service(size, json.dumps(spread()), *command, "-o", "shown.json")
    check_group(service)
    check_streams(machine, service, size)
    first = service.members()[0]["address"]
    masters = [
        address for address, names in providers(machine, service).items() if "master_database" in names
    ]
    assert masters == [first]
    shown = [json.loads((service.directory / f"shown.{rank}.json").read_text()) for rank in range(size)]
    assert shown[0]["margo"]["mercury"]["address"] == first
    done = service.run("bedrock-shutdown na+sm -f mofka.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert service.end() == 0
    assert not service.group_file.exists()


@needs_mpirun
def test_with_recovery_mpirun_lets_the_others_live_when_a_rank_is_killed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in MPI.items():
        monkeypatch.setenv(name, value)
    command = (
        str(MPIRUN),
        "--enable-recovery",
        "-np",
        "2",
        str(BIN / "bedrock"),
        "na+sm",
        "-c",
        "config.json",
    )
    service = machine.service(2, json.dumps(spread()), *command)
    victim = service.members()[1]["address"]
    os.kill(int(victim.removeprefix("na+sm://").split("-")[0]), signal.SIGKILL)
    check_streams(machine, machine.again(service, 1, "na+sm"), 2)


def test_one_command_makes_one_service_without_mpi(machine: Machine) -> None:
    service = machine.servers(3, json.dumps(spread()), "tcp://127.0.0.1", "-o", "shown.json")
    check_group(service)
    check_streams(machine, service, 3)
    (service.directory / "world.jx9").write_text("return $MPI_COMM_WORLD;")
    answer = service.run("bedrock-query tcp -f mofka.json -j world.jx9")
    by_rank = [member["address"] for member in service.members()]
    assert json.loads(answer.stdout) == {
        address: {"rank": rank, "size": 3, "addresses": by_rank} for rank, address in enumerate(by_rank)
    }
    assert sorted(path.name for path in service.directory.glob("shown*")) == [
        f"shown.{rank}.json" for rank in range(3)
    ]
    service.signal(signal.SIGINT)
    assert service.end() == 0
    assert not service.group_file.exists()
    assert "error" not in service.output


def test_one_line_tells_a_script_that_all_servers_are_ready(machine: Machine) -> None:
    reading, writing = os.pipe()
    (machine.directory / "config.json").write_text(json.dumps(spread()))
    command = [str(BIN / "bedrock"), "-n", "3", "na+sm", "-c", "config.json", "--ready-fd", str(writing)]
    with (
        subprocess.Popen(
            command, cwd=machine.directory, stdout=subprocess.DEVNULL, pass_fds=[writing]
        ) as process,
        open(reading) as told,
    ):
        os.close(writing)
        (line,) = told.read().splitlines()
        view = group_file.read(machine.directory / "mofka.json")
        process.terminate()
    assert len(view.members) == 3
    assert view.ranks[line] == 0
    assert process.returncode == 0


def test_a_server_that_is_killed_is_started_again_under_its_rank(machine: Machine) -> None:
    service = machine.servers(3, json.dumps(spread()), "tcp://127.0.0.1")
    before = service.members()
    token = json.loads(service.group_file.read_text())["metadata"]["__token__"]
    os.kill(service.pids[1], signal.SIGKILL)
    service.expect("the server of rank 1 was killed by SIGKILL; the others go on")
    again = machine.again(service, 1, "tcp://127.0.0.1")
    after = service.members()
    assert after[1] == {**before[1], "address": again.address}
    assert [after[0], after[2]] == [before[0], before[2]]
    assert json.loads(service.group_file.read_text())["metadata"]["__token__"] == token
    assert stat.S_IMODE(service.group_file.stat().st_mode) == 0o600
    check_streams(machine, service, 3)
    assert "master_database" not in providers(machine, service)[again.address]

    service.signal(signal.SIGTERM)
    assert service.end() == 255
    assert [member.get("ended", False) for member in service.members()] == [True, False, True]
    again.signal(signal.SIGTERM)
    assert again.end() == 0
    assert not service.group_file.exists()


def test_the_first_server_comes_back_too(machine: Machine, tmp_path: Path) -> None:
    settings = spread()
    settings["providers"][1]["config"]["database"] = {
        "type": "rocksdb",
        "config": {"path": str(tmp_path / "db")},
    }
    service = machine.servers(2, json.dumps(settings), "na+sm")
    machine.driver(service).create_topic("old")
    os.kill(service.pids[0], signal.SIGKILL)
    service.expect("rank 0 was killed")
    again = machine.again(service, 0, "na+sm")
    assert list(machine.driver(again).list_topics()) == ["old"]
    check_streams(machine, again, 2)


def test_a_server_does_not_outlive_its_supervisor(machine: Machine) -> None:
    service = machine.servers(2, json.dumps(spread()), "na+sm")
    ends = [os.pidfd_open(pid) for pid in service.pids]
    os.kill(service.pid, signal.SIGKILL)
    for end in ends:
        assert select.select([end], [], [], 10)[0] == [end]
        os.close(end)
    assert not service.group_file.exists()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def joining(group_file: Path, *bootstrap: str) -> dict[str, Any]:
    settings = spread(bootstrap=list(bootstrap), file=str(group_file))
    del settings["providers"][1]
    return settings


def test_a_server_joins_a_service_and_leaves_its_file_to_those_who_stay(machine: Machine) -> None:
    service = machine.servers(2, json.dumps(spread()), "tcp://127.0.0.1")
    newcomer = machine.serve(joining(service.group_file, "join"), address="tcp://127.0.0.1", name="newcomer")
    home = service.members()[2].pop("home")
    assert service.members()[2] == {"address": newcomer.address, "provider_id": 1, "rank": 2, "home": home}
    check_streams(machine, service, 3)
    answer = service.run("bedrock-query tcp -f mofka.json")
    assert newcomer.address in json.loads(answer.stdout)
    newcomer.signal(signal.SIGTERM)
    assert newcomer.end() == 0
    assert service.members()[2]["ended"]
    assert sorted(providers(machine, service)) == sorted(service.addresses)
    again = machine.serve(joining(service.group_file, "join"), address=newcomer.address, name="newcomer")
    assert again.address == newcomer.address
    assert service.members()[2] == {"address": newcomer.address, "provider_id": 1, "rank": 2, "home": home}


def test_a_server_that_joins_again_from_the_same_place_has_its_rank_and_events_back(machine: Machine) -> None:
    service = machine.servers(2, json.dumps(spread()), "tcp://127.0.0.1")
    settings = joining(service.group_file, "join")
    newcomer = machine.serve(settings, address="tcp://127.0.0.1", name="newcomer")
    driver = machine.driver(service)
    where = {"type": "default", "partition": {"path": str(machine.directory / "data")}}
    driver.create_topic("kept", options={"num_partitions": 3, "config": where})
    topic = driver.open_topic("kept")
    place = [partition["address"] for partition in topic.partitions].index(newcomer.address)
    with topic.producer(batch_size=1) as producer:
        assert producer.push({}, partition=place).wait(10000) == 0
        for end in (signal.SIGKILL, signal.SIGTERM):
            newcomer.signal(end)
            newcomer.end()
            newcomer = machine.serve(settings, address="tcp://127.0.0.1", name="newcomer")
            assert [member["rank"] for member in service.members()] == [0, 1, 2]
            assert service.members()[2]["address"] == newcomer.address
        assert producer.push({}, partition=place).wait(10000) == 1
    second = machine.serve(settings, address="tcp://127.0.0.1", name="newcomer")
    assert service.members()[3]["address"] == second.address


def test_the_first_process_founds_what_later_ones_join(machine: Machine) -> None:
    settings = spread(bootstrap=["join", "self"])
    first = machine.serve(settings, name="shared")
    del settings["providers"][1]
    second = machine.serve(settings, name="shared")
    assert [member["address"] for member in json.loads(first.group_file.read_text())["members"]] == sorted(
        [first.address, second.address]
    )
    check_streams(machine, first, 2)
    first.kill()
    second.kill()
    check_streams(machine, machine.serve(spread(bootstrap=["join", "self"]), name="shared"), 1)


def run(machine: Machine, settings: dict[str, Any] | str, *arguments: str) -> tuple[int, list[str]]:
    """Run bedrock to its end; return its exit code and the lines on standard error."""
    (machine.directory / "config.json").write_text(
        settings if isinstance(settings, str) else json.dumps(settings)
    )
    done = subprocess.run(
        [*arguments, "-c", "config.json"],
        cwd=machine.directory,
        env={**os.environ, **MPI},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "now running" not in done.stdout
    assert "go on" not in done.stdout
    assert not (machine.directory / "mofka.json").exists()
    return done.returncode, done.stderr.splitlines()


def only_on_rank_1(entry: dict[str, Any]) -> dict[str, Any]:
    settings = spread()
    settings["providers"].append({"__if__": "$MPI_COMM_WORLD.rank == 1", **entry})
    return settings


DATABASE = {"name": "other", "type": "yokan", "config": {"database": {"type": "map"}}}
BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "two providers with one id": (
        only_on_rank_1({**DATABASE, "provider_id": 3}),
        "providers[2].provider_id: 3 is the id of io_controller; ids are unique whatever the type",
    ),
    "a dependency on a later provider": (
        only_on_rank_1(
            {
                "name": "p",
                "type": "mofka",
                "config": {"topic": "t", "type": "default", "uuid": "5d1c0a2b-6f1e-4a37-9d0c-3b8e51f0a7c4"},
                "dependencies": {"io_controller": "later"},
            }
        ),
        'providers[2].dependencies.io_controller: no provider "later" comes before this one',
    ),
    "a pool that does not exist": (
        only_on_rank_1({**DATABASE, "dependencies": {"pool": "io_pool"}}),
        'providers[2].dependencies.pool: no pool is named "io_pool"',
    ),
}


@pytest.mark.parametrize(("settings", "line"), BAD.values(), ids=BAD)
def test_what_is_wrong_on_one_rank_ends_all_with_a_line_each(
    machine: Machine, settings: dict[str, Any], line: str
) -> None:
    code, lines = run(machine, settings, str(BIN / "bedrock"), "-n", "3", "na+sm")
    assert code == 255
    assert len(lines) == 3
    assert sum(text.startswith(f"error: {line}") for text in lines) == 1
    assert sum(text.startswith(f"error: rank 1 did not start: {line}") for text in lines) == 2


def with_margo(**section: Any) -> str:
    return json.dumps({**spread(), "margo": section})


BAD_EVERYWHERE: dict[str, tuple[str, list[str], str]] = {
    "an xstream without pools": (
        with_margo(argobots={"xstreams": [{"name": "x", "scheduler": {"type": "basic", "pools": []}}]}),
        [],
        "error: margo.argobots.xstreams[0].scheduler.pools: ",
    ),
    "a condition that is no expression": (
        json.dumps(spread()).replace("rank == 0", "rank =="),
        [],
        "error: providers[1].__if__: line 1 column 24: unexpected end",
    ),
    "a script that loops for ever": ("while (1) {}", ["--jx9"], "error: config.json: the script did not end"),
}


@pytest.mark.parametrize(("text", "flags", "line"), BAD_EVERYWHERE.values(), ids=BAD_EVERYWHERE)
def test_what_is_wrong_everywhere_is_a_line_for_each_server(
    machine: Machine, text: str, flags: list[str], line: str
) -> None:
    code, lines = run(machine, text, str(BIN / "bedrock"), "-n", "2", "na+sm", *flags)
    assert code == 255
    assert [text.startswith(line) for text in lines] == [True, True], lines


@needs_mpirun
@pytest.mark.parametrize("launcher", [(), (str(MPIRUN), "-np", "2")], ids=["alone", "mpirun"])
def test_mpi_that_is_asked_for_and_missing_is_a_line_with_what_to_install(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, launcher: tuple[str, ...]
) -> None:
    (machine.directory / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'mpi4py' else find(name, *rest)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(machine.directory))
    code, lines = run(machine, spread(), *launcher, str(BIN / "bedrock"), "na+sm")
    errors = [line for line in lines if line.startswith("error: ")]
    assert code != 0
    assert len(errors) in ({1} if not launcher else {1, 2})
    assert all("pip install 'mofka[mpi]'" in line for line in errors)


@needs_mpirun
def test_what_is_wrong_on_one_rank_ends_all_that_mpirun_has_started(machine: Machine) -> None:
    settings, line = BAD["a pool that does not exist"]
    code, lines = run(machine, settings, str(MPIRUN), "-np", "2", str(BIN / "bedrock"), "na+sm")
    assert code != 0
    assert sum(line in text for text in lines) in (1, 2)
    assert sum(text.startswith("error: ") for text in lines) in (1, 2)


def test_servers_depend_on_each_other_by_their_ranks(machine: Machine) -> None:
    settings = spread()
    settings["margo"] = {"rpc_thread_count": 1}
    settings["providers"].append({"name": "db", "type": "yokan", "config": {"database": {"type": "map"}}})
    for rank in range(2):
        partition = {"topic": "t", "type": "memory", "uuid": f"00000000-0000-0000-0000-00000000000{rank}"}
        settings["providers"].append(
            {
                "__if__": f"$MPI_COMM_WORLD.rank == {rank}",
                "name": "p",
                "type": "mofka",
                "config": partition,
                "dependencies": {"master_database": f"db@{1 - rank}"},
            }
        )
    service = machine.servers(2, json.dumps(settings), "na+sm")
    answer = json.loads(service.run("bedrock-query na+sm -f mofka.json").stdout)
    addresses = [member["address"] for member in service.members()]
    for address, other in (addresses, addresses[::-1]):
        by_name = {provider["name"]: provider for provider in answer[address]["providers"]}
        db = next(p for p in answer[other]["providers"] if p["name"] == "db")
        assert by_name["p"]["dependencies"] == {"master_database": f"yokan:{db['provider_id']}@{other}"}


def test_groups_of_one_in_the_same_file_are_refused(machine: Machine) -> None:
    code, lines = run(machine, spread(bootstrap="self"), str(BIN / "bedrock"), "-n", "2", "na+sm")
    assert code == 255
    assert len(lines) == 2
    assert all("'self' makes 2 groups of one" in line and "'mpi' makes one group" in line for line in lines)


def test_the_group_file_of_a_living_service_is_not_taken_over(machine: Machine) -> None:
    server = machine.serve()
    before = server.group_file.read_bytes()
    code, lines = run(
        machine, spread(bootstrap="self", file=str(server.group_file)), str(BIN / "bedrock"), "na+sm"
    )
    assert (code, len(lines)) == (255, 1)
    assert f"the group file of a service that is running at {server.address}" in lines[0]
    assert server.group_file.read_bytes() == before
    assert machine.driver(server).list_topics() == {}


def test_a_service_follows_another_one_that_is_ending(machine: Machine) -> None:
    first = machine.serve()
    first.signal(signal.SIGSTOP)
    text = json.dumps(spread(bootstrap="self", file=str(first.group_file)))
    (machine.directory / "next.json").write_text(text)
    following = machine.start(BIN / "bedrock", "na+sm", "-c", "next.json")
    first.signal(signal.SIGTERM)
    first.signal(signal.SIGCONT)
    assert first.end() == 0
    address = following.expect(READY)[1]
    assert json.loads(first.group_file.read_text())["members"][0]["address"] == address


def test_a_server_that_comes_back_needs_the_group_file_of_its_service(machine: Machine) -> None:
    again = (str(BIN / "bedrock"), "--rank", "3", "--size", "4", "na+sm")
    code, lines = run(machine, spread(), *again)
    assert (code, len(lines)) == (255, 1)
    assert "mofka.json: no such group file" in lines[0]
    service = machine.servers(2, json.dumps(spread()), "na+sm")
    code, lines = run(machine, spread(file=str(service.group_file)), *again)
    assert (code, len(lines)) == (255, 1)
    assert "the group has no member of rank 3 to start again; it has [0, 1]" in lines[0]


def test_nobody_joins_a_service_that_is_dead(machine: Machine) -> None:
    server = machine.serve()
    server.kill()
    code, lines = run(machine, joining(server.group_file, "join"), str(BIN / "bedrock"), "na+sm")
    assert (code, len(lines)) == (255, 1)
    assert "the group file is of a service that has ended: no member answers" in lines[0]


def test_a_rank_is_not_taken_from_a_server_that_answers_and_one_that_does_not_gives_way(
    machine: Machine,
) -> None:
    service = machine.servers(2, json.dumps(spread()), "na+sm")
    before = service.members()
    again = (str(BIN / "bedrock"), "--rank", "1", "--size", "2", "na+sm")
    code, lines = run(machine, spread(file=str(service.group_file)), *again)
    assert (code, len(lines)) == (255, 1)
    assert f"rank 1 is served at {before[1]['address']}, which answers" in lines[0]
    code, lines = run(machine, spread(file=str(service.group_file)), *again[:4], "3", "na+sm")
    assert (code, len(lines)) == (255, 1)
    assert "--size 3 disagrees with the group, whose ranks are [0, 1]; give --size 2" in lines[0]
    assert service.members() == before

    os.kill(service.pids[1], signal.SIGSTOP)
    other = machine.again(service, 1, "na+sm")
    assert service.members()[1]["address"] == other.address
    os.kill(service.pids[1], signal.SIGCONT)
    service.expect(re.escape(f"rank 1 is served at {other.address} by now; this server ends"))
    service.expect("the server of rank 1 ended with exit code 255")
    assert service.members()[1] == {**before[1], "address": other.address}
    check_streams(machine, service, 2)


def test_the_group_file_stays_while_a_member_is_there_that_does_not_answer(machine: Machine) -> None:
    service = machine.servers(2, json.dumps(spread()), "tcp://127.0.0.1")
    os.kill(service.pids[1], signal.SIGSTOP)
    os.kill(service.pids[0], signal.SIGTERM)
    end = os.pidfd_open(service.pids[0])
    assert select.select([end], [], [], 30)[0] == [end]
    os.close(end)
    assert [member.get("ended", False) for member in service.members()] == [True, False]
    os.kill(service.pids[1], signal.SIGCONT)
    os.kill(service.pids[1], signal.SIGTERM)
    service.end()
    assert not service.group_file.exists()


def test_servers_wait_for_that_of_the_master_database_in_whatever_order_they_come_back(
    machine: Machine, tmp_path: Path
) -> None:
    settings = spread()
    settings["providers"][1]["config"]["database"] = {
        "type": "rocksdb",
        "config": {"path": str(tmp_path / "db")},
    }
    service = machine.servers(3, json.dumps(settings), "tcp://127.0.0.1")
    where = {"type": "default", "partition": {"path": str(tmp_path / "data")}}
    topic = machine.driver(service)
    topic.create_topic("kept", options={"num_partitions": 3, "config": where})
    before = service.members()
    for pid in service.pids:
        os.kill(pid, signal.SIGKILL)
    (service.directory / "config.json").write_text(json.dumps(settings))
    waiting = []
    for rank in (2, 1):
        command = (
            BIN / "bedrock",
            "--rank",
            str(rank),
            "--size",
            "3",
            "tcp://127.0.0.1",
            "-c",
            "config.json",
        )
        waiting.append(machine.start(*command, directory=service.directory))
        waiting[-1].expect(f"waits for the master database, .*rank 0: .*{re.escape(before[0]['address'])}")
    machine.again(service, 0, "tcp://127.0.0.1")
    for process in waiting:
        process.expect("the master database is there")
        process.expect(READY)
    addresses = [member["address"] for member in service.members()]
    assert not {member["address"] for member in before} & {*addresses}
    check_streams(machine, service, 3)
    assert len(list(machine.driver(service).open_topic("kept").partitions)) == 3


def test_any_living_member_tells_the_present_view(machine: Machine) -> None:
    service = machine.servers(3, json.dumps(spread()), "tcp://127.0.0.1")
    os.kill(service.pids[1], signal.SIGKILL)
    again = machine.again(service, 1, "tcp://127.0.0.1")
    os.kill(service.pids[2], signal.SIGTERM)
    service.expect("flock: .* has ended, with rank 2")
    again.expect("flock: .* has ended, with rank 2")
    view = group_file.read(service.group_file)
    service.group_file.unlink()  # as for members on hosts that do not share it
    with talking_to(view, 10) as client:
        for member in view.members:
            if member.ended:
                continue
            told = client.view(member.address, 1)
            assert told.token is None
            assert {m.rank: (m.address, m.ended) for m in told.members} == {
                m.rank: (m.address, m.ended) for m in view.members
            }


def test_two_master_databases_are_told_once_and_all_use_the_first(machine: Machine) -> None:
    settings = spread()
    del settings["providers"][1]["__if__"]
    service = machine.servers(2, json.dumps(settings), "na+sm")
    (told,) = [line for line in service.lines if "[warning]" in line]
    first, second = sorted(service.addresses)
    assert f"2 servers have a master database, of which that at {first} is used" in told
    assert second in told
    check_streams(machine, service, 2)


@pytest.mark.parametrize(("form", "host"), [("tcp", "127.0.0.1"), ("tcp", "LocalHost"), ("sm", "")])
def test_servers_whose_addresses_are_written_in_short_come_back_at_them(
    machine: Machine, form: str, host: str
) -> None:
    names = [f"{host}:{free_port()}" if host else f"{uuid4()}" for _ in range(2)]
    members: list[dict[str, Any]] = [{"address": f"{form}://{name}", "provider_id": 1} for name in names]
    path = machine.directory / "mofka.json"
    path.write_text(json.dumps({"members": members}))
    settings = [spread(bootstrap="file", file=str(path)) for _ in names]
    del settings[1]["providers"][1]
    servers = [
        machine.serve(each, address=member["address"], name=name.partition(":")[2] or name)
        for each, member, name in zip(settings, members, names, strict=True)
    ]
    servers[0].group_file = path
    driver = machine.driver(servers[0])
    where = {"type": "default", "partition": {"path": str(machine.directory / "data")}}
    driver.create_topic("kept", options={"num_partitions": 2, "config": where})
    place = [each["address"] for each in driver.open_topic("kept").partitions].index(servers[1].address)
    for number in range(2):
        with driver.open_topic("kept").producer(batch_size=1) as producer:
            assert producer.push({}, partition=place).wait(10000) == number
        driver = machine.driver(servers[0])
        if number == 0:
            servers[1].kill()
            machine.serve(settings[1], address=members[1]["address"], name="again")
    assert [member["address"] for member in json.loads(path.read_text())["members"]] == sorted(
        server.address for server in servers
    )
