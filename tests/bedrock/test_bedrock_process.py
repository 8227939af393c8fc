"""The three commands as a user runs them: real processes, their output, exit codes and signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mochi.bedrock.client import Client
from mochi.flock import group_file
from mochi.flock.group_file import GroupView, Member

BIN = Path(sys.executable).parent
READY = re.compile(
    r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\] \[info\] Bedrock daemon now running at (\S+)$", re.M
)
SERVICE: dict[str, Any] = {
    "libraries": ["libflock-bedrock-module.so", "libyokan-bedrock-module.so"],
    "providers": [
        {
            "name": "group_manager",
            "type": "flock",
            "provider_id": 1,
            "config": {"bootstrap": "self", "file": "mofka.json", "group": {"type": "static"}},
        },
        {
            "name": "master",
            "type": "yokan",
            "tags": ["mofka:master"],
            "config": {"database": {"type": "map"}},
            "dependencies": {"pool": "__primary__"},
        },
    ],
}


class Servers:
    """Starts servers in a directory of their own, and leaves none behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[str]] = []

    def start(self, config: dict[str, Any] | str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
        """Start a server and wait for its ready line; return the process and the address."""
        text = config if isinstance(config, str) else json.dumps(config)
        (self.directory / "config.json").write_text(text)
        process = subprocess.Popen(
            [sys.executable, "-m", "mochi.bedrock", *arguments, "-c", "config.json"],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        assert process.stdout is not None
        lines = ""
        for line in process.stdout:
            lines += line
            if match := READY.match(line):
                return process, match[1]
        raise AssertionError(f"no ready line: {lines}{process.communicate()[1]}")

    def run(self, command: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [BIN / command, *arguments],
            cwd=self.directory,
            input=text,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(tmp_path)
    yield servers
    servers.stop()


def only_line(completed: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error of a command that failed."""
    assert completed.returncode == 255
    (line,) = completed.stderr.splitlines()
    return line


def test_a_service_is_started_queried_and_shut_down(servers: Servers) -> None:
    process, address = servers.start(SERVICE, "na+sm", "-o", "expanded.json")
    assert re.fullmatch(rf"na\+sm://{process.pid}-\d+", address)
    group = json.loads((servers.directory / "mofka.json").read_text())
    assert [member["address"] for member in group["members"]] == [address]

    compact = servers.run("bedrock-query", "na+sm", "-f", "mofka.json")
    assert (compact.returncode, compact.stderr) == (0, "")
    pretty = servers.run("bedrock-query", "na+sm", "-f", "mofka.json", "-p")
    answer = json.loads(pretty.stdout)
    assert json.loads(compact.stdout) == answer
    assert compact.stdout.count("\n") == 1
    assert pretty.stdout == json.dumps(answer, indent=4, sort_keys=True) + "\n"
    assert list(answer) == [address]
    assert [provider["provider_id"] for provider in answer[address]["providers"]] == [1, 2]

    written = (servers.directory / "expanded.json").read_text()
    assert written == compact.stdout.removeprefix(f'{{"{address}":').removesuffix("}\n")

    shutdown = servers.run("bedrock-shutdown", "na+sm", "-f", "mofka.json")
    assert (shutdown.returncode, shutdown.stdout, shutdown.stderr) == (0, "", "")
    assert process.wait(10) == 0
    assert process.communicate()[1] == ""


def test_a_saved_configuration_starts_the_same_service(servers: Servers) -> None:
    process, _ = servers.start(SERVICE, "na+sm", "-o", "expanded.json")
    process.terminate()
    assert process.wait(10) == 0
    saved = json.loads((servers.directory / "expanded.json").read_text())
    _, address = servers.start(saved, "-o", "again.json")
    assert address == saved["margo"]["mercury"]["address"]
    assert json.loads((servers.directory / "again.json").read_text()) == saved


def test_a_query_shows_the_pools_and_xstreams_that_were_added(servers: Servers) -> None:
    _, address = servers.start(SERVICE, "na+sm")
    group = Client("na+sm").make_service_group_handle_from_flock(servers.directory / "mofka.json")
    group[0].add_pool({"name": "io", "kind": "prio_wait"})
    group[0].add_xstream({"name": "es", "scheduler": {"type": "randws", "pools": ["io", "__primary__"]}})
    query = servers.run("bedrock-query", "na+sm", "-f", "mofka.json")
    shown = json.loads(query.stdout)[address]["margo"]["argobots"]
    assert shown["pools"][1:] == [{"access": "mpmc", "kind": "prio_wait", "name": "io"}]
    assert shown["xstreams"][1:] == [
        {"name": "es", "scheduler": {"pools": ["io", "__primary__"], "type": "randws"}}
    ]


def test_who_asks_is_told_what_of_a_script_has_no_effect(servers: Servers) -> None:
    servers.start(SERVICE, "na+sm")
    (servers.directory / "script.jx9").write_text("return counted($__config__.providers);")
    query = servers.run("bedrock-query", "na+sm", "-f", "mofka.json", "-j", "script.jx9")
    assert list(json.loads(query.stdout).values()) == [None]
    assert "line 1: unknown function \"counted\" gives null; did you mean 'count'?" in query.stderr
    (servers.directory / "script.jx9").write_text(" \n")
    query = servers.run("bedrock-query", "na+sm", "-f", "mofka.json", "-j", "script.jx9")
    assert query.stderr == ""
    assert "providers" in next(iter(json.loads(query.stdout).values()))


def test_a_server_that_waits_for_another_can_be_interrupted(servers: Servers) -> None:
    missing = {"name": "m", "type": "mofka", "config": {"topic": "t", "type": "memory"}} | {
        "dependencies": {"master_database": "db@na+sm://nobody-listens-here"}
    }
    config = {"libraries": ["libmofka-bedrock-module.so"], "providers": [missing]}
    (servers.directory / "config.json").write_text(json.dumps(config))
    arguments = ["-m", "mochi.bedrock", "na+sm", "-c", "config.json", "-v", "debug"]
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=servers.directory, stdout=subprocess.PIPE, stderr=-1, text=True
    ) as process:
        assert process.stdout is not None
        assert any("loaded libmofka" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=15)
    assert (process.returncode, stderr) == (255, "error: interrupted before the server was ready\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_everything_and_exits_with_success(servers: Servers, number: signal.Signals) -> None:
    process, _ = servers.start(SERVICE, "na+sm")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=10)
    assert (process.returncode, stdout, stderr) == (0, "", "")
    assert not (servers.directory / "mofka.json").exists()


def test_the_protocol_of_the_group_file_wins_with_a_warning(servers: Servers) -> None:
    process, address = servers.start(SERVICE, "na+sm")
    query = servers.run("bedrock-query", "tcp", "-f", "mofka.json")
    assert (query.returncode, list(json.loads(query.stdout))) == (0, [address])
    assert query.stderr.endswith("[warning] the service speaks na+sm, not tcp: using na+sm\n")
    shutdown = servers.run("bedrock-shutdown", "tcp", "-f", "mofka.json", "-v", "off")
    assert (shutdown.returncode, shutdown.stderr) == (0, "")
    assert process.wait(10) == 0


def test_tcp_and_several_addresses(servers: Servers) -> None:
    first, one = servers.start({}, "tcp://127.0.0.1")
    second, two = servers.start({"bedrock": {"provider_id": 2}}, "na+sm")
    assert one.startswith("ofi+tcp://127.0.0.1:")
    query = servers.run("bedrock-query", "tcp", "-a", two, "-a", one, "-i", "2", "-v", "off")
    assert list(json.loads(query.stdout)) == [two]
    assert only_line(query) == f"error: no provider 2 at {one}"
    query = servers.run("bedrock-query", "tcp", "-a", one)
    assert (query.returncode, list(json.loads(query.stdout))) == (0, [one])
    assert servers.run("bedrock-shutdown", "tcp", "-a", one, "-a", two).returncode == 0
    assert (first.wait(10), second.wait(10)) == (0, 0)


def test_a_server_that_cannot_be_told_fails_the_shutdown_but_not_the_others(servers: Servers) -> None:
    process, address = servers.start({}, "na+sm")
    gone = "na+sm://nobody-listens-here"
    line = only_line(servers.run("bedrock-shutdown", "na+sm", "-a", gone, "-a", address))
    assert line.startswith(f"error: nobody answers at {gone}: ")
    assert process.wait(10) == 0


@pytest.mark.parametrize("command", ["bedrock-query", "bedrock-shutdown"])
def test_a_command_that_names_no_server_fails(servers: Servers, command: str) -> None:
    assert "no server named; give -a or -f" in only_line(servers.run(command, "na+sm"))
    assert "no server named; give -f" in only_line(servers.run(command, "na+sm", "--rank", "0"))
    ended = {"members": [{"address": "na+sm://ended", "provider_id": 1, "ended": True}]}
    (servers.directory / "mofka.json").write_text(json.dumps(ended))
    assert "-f" in only_line(servers.run(command, "mofka.json"))
    assert "all servers of the group have ended" in only_line(
        servers.run(command, "na+sm", "-f", "mofka.json")
    )


@pytest.mark.parametrize("command", ["bedrock-query", "bedrock-shutdown"])
def test_a_command_speaks_to_the_servers_that_are_named_with_the_token_of_the_file(
    servers: Servers, command: str
) -> None:
    process, address = servers.start(SERVICE, "na+sm")
    short = f"sm://{address.partition('://')[2]}"
    view = group_file.read(servers.directory / "mofka.json")
    group_file.write(servers.directory / "mofka.json", view.with_member(Member("na+sm://nobody", 1, 1)))
    assert "no member has rank 2; there are [0, 1]" in only_line(
        servers.run(command, "na+sm", "-f", "mofka.json", "--rank", "2")
    )
    assert "na+sm://nobody" in only_line(servers.run(command, "na+sm", "-f", "mofka.json", "--rank", "1"))
    assert process.poll() is None
    for words in (("-a", short), ("--rank", "0")):
        done = servers.run(command, "na+sm", "-f", "mofka.json", *words)
        assert (done.returncode, done.stderr) == (0, "")
        if command == "bedrock-shutdown":
            assert process.wait(10) == 0
            return
        assert list(json.loads(done.stdout)) == [address]


def test_a_script_is_told_on_a_descriptor_that_a_server_is_ready(servers: Servers) -> None:
    (servers.directory / "config.json").write_text(json.dumps(SERVICE))
    reading, writing = os.pipe()
    with (
        subprocess.Popen(
            [BIN / "bedrock", "na+sm", "-c", "config.json", "--ready-fd", str(writing)],
            cwd=servers.directory,
            stdout=subprocess.DEVNULL,
            pass_fds=[writing],
        ) as process,
        open(reading) as told,
    ):
        os.close(writing)
        word = told.read()
        assert (
            servers.run("bedrock-shutdown", "na+sm", "-a", word.strip(), "-f", "mofka.json").returncode == 0
        )
    assert process.returncode == 0
    assert "--ready-fd 77: Bad file descriptor" in only_line(
        servers.run("bedrock", "--ready-fd", "77", "na+sm")
    )


def test_members_that_have_ended_are_not_in_the_handle_of_a_group(tmp_path: Path) -> None:
    members = (Member("sm://a", 1, 0), Member("na+sm://b", 1, 1, ended=True), Member("na+sm://c", 1, 2))
    group_file.write(tmp_path / "mofka.json", GroupView(members))
    group = Client("na+sm").make_service_group_handle_from_flock(tmp_path / "mofka.json")
    assert [handle.address for handle in group] == ["na+sm://a", "na+sm://c"]


def test_what_no_condition_can_mean_is_told_once_on_standard_error_and_is_null(servers: Servers) -> None:
    settings = SERVICE | {
        "providers": [*SERVICE["providers"], {"__if__": "$MPI_COM_WORLD.rank == 1", "x": 1}]
    }
    process, _ = servers.start(settings, "na+sm")
    process.terminate()
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 0
    assert stderr.count("\n") == 1
    assert stderr.endswith("[warning] providers[2].__if__: nothing defines $MPI_COM_WORLD, which is null\n")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_file_is_never_read_or_replaced_as_the_group_file(
    servers: Servers, make: Callable[[Path], None]
) -> None:
    place = servers.directory / "mofka.json"
    make(place)
    before = place.lstat()
    (servers.directory / "config.json").write_text(json.dumps(SERVICE))
    line = only_line(servers.run("bedrock", "na+sm", "-c", "config.json", "-v", "off"))
    assert re.search(r"mofka\.json: .* is a (pipe|directory|device), no file", line)
    assert ", no file" in only_line(servers.run("bedrock-query", "na+sm", "-f", "mofka.json"))
    assert place.lstat().st_ino == before.st_ino


@pytest.mark.parametrize("command", ["bedrock-query", "bedrock-shutdown"])
def test_a_missing_group_file_is_one_line(servers: Servers, command: str) -> None:
    wait = ["-w", "0"] if command == "bedrock-query" else []
    assert "nowhere.json" in only_line(servers.run(command, "na+sm", "-f", "nowhere.json", *wait))
    assert "no directory" in only_line(servers.run(command, "na+sm", "-f", "nowhere/mofka.json"))


def test_a_query_waits_for_the_group_file_of_a_service_that_starts(servers: Servers) -> None:
    query = subprocess.Popen(
        [BIN / "bedrock-query", "na+sm", "-f", "mofka.json", "-w", "60"],
        cwd=servers.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert query.stderr is not None
    assert "waiting up to 60 s for the group file mofka.json" in query.stderr.readline()
    _, address = servers.start(SERVICE, "na+sm")
    assert list(json.loads(query.communicate(timeout=60)[0])) == [address]


def test_the_token_of_the_group_file_is_needed(servers: Servers) -> None:
    process, address = servers.start(SERVICE, "na+sm")
    assert "token" in only_line(servers.run("bedrock-query", "na+sm", "-a", address))
    assert "token" in only_line(servers.run("bedrock-shutdown", "na+sm", "-a", address))
    assert process.poll() is None


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (
            {"margo": {"rpc_thread_cuont": 4}},
            "margo.rpc_thread_cuont: unknown field; did you mean 'rpc_thread_count'?",
        ),
        (SERVICE | {"libraries": []}, 'add "libflock-bedrock-module.so" to libraries'),
        (
            SERVICE | {"providers": [SERVICE["providers"][0] | {"config": {"bootstrap": "slef"}}]},
            "providers[0].config",
        ),
        (
            SERVICE | {"providers": [SERVICE["providers"][1] | {"dependencies": {"pool": "io_pool"}}]},
            'providers[0].dependencies.pool: no pool is named "io_pool"',
        ),
        (
            {"margo": {"argobots": {"pools": [{"name": "a"}]}, "rpc_pool": "a"}},
            'margo.rpc_pool: no xstream serves the pool "a", whose work would wait for ever; served: __primary__',
        ),
        (
            {"margo": {"argobots": {"xstreams": [{"scheduler": {"pools": []}}]}}},
            "margo.argobots.xstreams[0].scheduler.pools: expected",
        ),
        (
            SERVICE | {"providers": [{"__if__": "$MPI_COMM_WORLD.rank =="}]},
            "providers[0].__if__: line 1 column",
        ),
    ],
)
def test_a_bad_configuration_is_one_line_and_a_failure(
    servers: Servers, config: dict[str, Any], line: str
) -> None:
    completed = servers.run("bedrock", "na+sm", "--stdin", text=json.dumps(config))
    assert line in only_line(completed)
    assert READY.search(completed.stdout) is None
    assert not (servers.directory / "mofka.json").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["na+sm", "--stdin", "-c", "x.json"], "error: -c and --stdin exclude each other"),
        (["na+sm", "-c", "x.json"], "error: x.json: No such file or directory"),
        (["na+sm", "--stdin"], "error: standard input: not JSON, line 1 column 2: "),
        (["tpc"], "error: address 'tpc': "),
        ([], "error: margo.mercury.address: missing"),
    ],
)
def test_bad_arguments_are_one_line_and_a_failure(servers: Servers, arguments: list[str], line: str) -> None:
    assert only_line(servers.run("bedrock", *arguments, text="{]")).startswith(line)


def test_an_expanded_configuration_that_cannot_be_written_is_one_line_and_a_failure(servers: Servers) -> None:
    arguments = ("bedrock", "na+sm", "--stdin", "-o", "no/such/directory")
    line = only_line(servers.run(*arguments, text=json.dumps(SERVICE)))
    assert line == "error: no/such/directory: No such file or directory"


@pytest.mark.parametrize("several", [[], ["-n", "2"]])
def test_a_server_without_flock_says_once_on_standard_error_that_it_is_open(
    servers: Servers, several: list[str]
) -> None:
    process, address = servers.start({}, "tcp://127.0.0.1", *several)
    process.terminate()
    _, stderr = process.communicate(timeout=20)
    (line,) = stderr.splitlines()
    assert f"[warning] {'' if several else address}" in line
    assert "is open to whoever can reach it" in line


def test_an_address_in_use_is_one_line(servers: Servers) -> None:
    _, address = servers.start({}, "na+sm")
    assert address in only_line(servers.run("bedrock", address))


CONDITIONAL = {
    "libraries": ["libyokan-bedrock-module.so"],
    "providers": [
        {"__if__": f"$MPI_COMM_WORLD.rank == {rank}", "name": f"db{rank}", "type": "yokan", "provider_id": 2}
        | {"config": {"database": {"type": "map"}}}
        for rank in range(2)
    ],
}
SCRIPT = """
$names = [];
foreach ($__config__.providers as $provider) { array_push($names, $provider.name); }
print "asked for ", count($names);
return {names: $names, size: $MPI_COMM_WORLD.size};
"""


def test_a_condition_leaves_a_single_process_what_is_for_the_first(servers: Servers) -> None:
    process, address = servers.start(CONDITIONAL, "na+sm")
    (servers.directory / "names.jx9").write_text(SCRIPT)
    query = servers.run("bedrock-query", "na+sm", "-a", address, "-j", "names.jx9")
    assert (query.returncode, query.stderr) == (0, "")
    assert query.stdout == f'{{"{address}":{{"names":["db0"],"size":1}}}}\n'
    process.terminate()
    stdout, _ = process.communicate(timeout=10)
    assert re.fullmatch(r"\[.*\] \[info\] \[jx9\] asked for 1\n", stdout)


def test_a_script_that_fails_is_one_line_for_each_server(servers: Servers) -> None:
    _, address = servers.start({}, "na+sm")
    (servers.directory / "bad.jx9").write_text("while (1) {}")
    query = servers.run("bedrock-query", "na+sm", "-a", address, "-j", "bad.jx9")
    assert only_line(query) == f"error: {address}: the script did not end within 100000 steps"
    assert query.stdout == "{}\n"
    assert servers.run("bedrock-query", "na+sm", "-a", address).returncode == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "script.jx9: No such file"), (b"return '\xff';", "script.jx9: not UTF-8, at byte 8")],
)
def test_a_script_that_cannot_be_read_is_one_line(
    servers: Servers, content: bytes | None, words: str
) -> None:
    if content is not None:
        (servers.directory / "script.jx9").write_bytes(content)
    assert words in only_line(servers.run("bedrock-query", "na+sm", "-a", "na+sm://x", "-j", "script.jx9"))


GENERATOR = """
$c = {libraries: ["libyokan-bedrock-module.so"], providers: []};
for ($i = 1; $i <= $count; $i++) {
    array_push($c.providers, {name: "$kind$i", type: "yokan", config: {database: {type: "map"}}});
}
return $c;
"""
TOML = """
libraries = ["libyokan-bedrock-module.so"]
[[providers]]
name = "db1"
type = "yokan"
config.database.type = "map"
"""


@pytest.mark.parametrize(
    ("text", "flags", "names"),
    [
        (GENERATOR, ["--jx9", "--jx9-context", 'count=2,kind="db"'], ["db1", "db2"]),
        (TOML, ["-t"], ["db1"]),
    ],
)
def test_a_configuration_may_be_a_script_or_toml(
    servers: Servers, text: str, flags: list[str], names: list[str]
) -> None:
    _, address = servers.start(text, "na+sm", *flags)
    query = servers.run("bedrock-query", "na+sm", "-a", address)
    assert [provider["name"] for provider in json.loads(query.stdout)[address]["providers"]] == names


@pytest.mark.parametrize(
    ("flags", "text", "line"),
    [
        (["-j"], "return {", "error: standard input: line 1 column 9: unexpected end"),
        (["-t"], "a = 2020-01-01", "error: standard input: a: expected no date"),
    ],
)
def test_a_script_or_toml_that_is_none_is_one_line_and_a_failure(
    servers: Servers, flags: list[str], text: str, line: str
) -> None:
    assert only_line(servers.run("bedrock", "na+sm", "--stdin", *flags, text=text)).startswith(line)


def test_warnings_are_log_lines_and_traces_are_shown_on_request(servers: Servers) -> None:
    config = SERVICE | {"libraries": [*SERVICE["libraries"], "libnobody.so"], "mona": [{}], "providers": [{}]}
    form = r"\[[-\d]{10} [:\d]{8}\.\d{3}\] \[(\w+)\] (.*)"
    completed = servers.run("bedrock", "na+sm", "--stdin", "-v", "trace", text=json.dumps(config))
    matches = [re.fullmatch(form, line) for line in completed.stdout.splitlines()]
    expected = ("warning", "mona: obsolete section, ignored; nothing needs it")
    assert expected in [match and match.groups() for match in matches]
    completed = servers.run("bedrock", "na+sm", "--stdin", "-v", "off", text=json.dumps(config))
    assert completed.stdout == ""
    assert only_line(completed).startswith("error: providers[0].name")


def wake_ups(pid: int) -> int:
    """Times that the threads of a process went to sleep or were put aside so far."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found = re.findall(r"voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text())
        count += sum(map(int, found))
    return count


def test_an_idle_server_does_not_wake_up(servers: Servers) -> None:
    process, _ = servers.start(
        SERVICE | {"margo": {"use_progress_thread": True, "rpc_thread_count": 2}}, "na+sm"
    )
    assert servers.run("bedrock-query", "na+sm", "-f", "mofka.json").returncode == 0
    deadline = time.monotonic() + 5
    before = wake_ups(process.pid)
    while True:
        time.sleep(0.5)
        after = wake_ups(process.pid)
        if after == before:
            break
        assert time.monotonic() < deadline, f"{after - before} wake-ups in half a second"
        before = after
