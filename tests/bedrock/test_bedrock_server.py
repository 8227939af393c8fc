"""A server in this process: deployment, dependencies, changes at run time, and what is left after a failure.

``plugin`` holds a component as a third party would install it.
"""

import importlib
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mochi.bedrock import rpc
from mochi.bedrock.client import BedrockClient, ClientException
from mochi.bedrock.client import Client as BedrockApi
from mochi.bedrock.config import parse
from mochi.bedrock.dependencies import resolve
from mochi.bedrock.errors import BedrockError, DeploymentError
from mochi.bedrock.peers import Alone, Peers
from mochi.bedrock.server import Deployment
from mochi.bedrock.spec import PoolSpec, ProviderHandle, ProviderSpec, SchedulerSpec, World, XstreamSpec
from mochi.margo.client import Client
from mochi.margo.engine import Engine
from mochi.margo.errors import AddressError, AuthenticationError, ConfigError, Fault
from mochi.margo.link import PendingCall
from mochi.margo.rpc import pack

HERE = Path(__file__).parent
PROBE = "libprobe-bedrock-module.so"
YOKAN = "libyokan-bedrock-module.so"


class Ping(msgspec.Struct):
    """Arguments of the probe's RPC."""


@pytest.fixture(autouse=True)
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    monkeypatch.syspath_prepend(str(HERE / "plugin"))
    found: list[tuple[str, str]] = importlib.import_module("probe_component").EVENTS
    found.clear()
    return found


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(timeout=10)
    yield client
    client.close()


def probe(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "probe"} | fields


def deployment(*providers: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {"libraries": [PROBE, YOKAN], "providers": list(providers)} | sections


def database(name: str = "db", **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "yokan", "config": {"database": {"type": "map"}}} | fields


class Told(Alone):
    """A process that is told where others are."""

    def __init__(self, rank: int, size: int, others: dict[int, str]) -> None:
        super().__init__(rank, size)
        self._others = others

    def gather(self, item: Any) -> dict[int, Any]:
        said = super().gather(item)
        if not isinstance(item, list):
            return said
        return said | {rank: [other, b""] for rank, other in self._others.items()}


class Sharing(Told):
    """The same, with a secret that all of them know, and rounds for which those wait that are here."""

    SECRET = b"s" * 32

    def __init__(self, rank: int, others: dict[int, str], barrier: threading.Barrier) -> None:
        super().__init__(rank, 2, others)
        self._barrier = barrier

    def gather(self, item: Any) -> dict[int, Any]:
        self._barrier.wait(30)
        said = super().gather(item)
        if not isinstance(item, list):
            return said
        return {rank: [address, self.SECRET] for rank, (address, _) in said.items()}


@contextmanager
def serving(
    config: dict[str, Any], address: str | None = "na+sm", peers: Peers | None = None
) -> Iterator[Deployment]:
    """Run a server in a thread of its own; a deployment that fails raises here."""
    started: queue.Queue[Deployment | Exception] = queue.Queue()

    def work() -> None:
        try:
            server = Deployment(parse(config), address, peers=peers)
            server.run(lambda: started.put(server))
        except Exception as error:
            started.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    outcome = started.get(timeout=30)
    try:
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome
        outcome.finalize()
    finally:
        if isinstance(outcome, Deployment):
            outcome.finalize()
        thread.join(30)
    assert not thread.is_alive()


def names(config: dict[str, Any]) -> list[str]:
    return [provider["name"] for provider in config["providers"]]


def fixture() -> tuple[str, dict[str, Any]]:
    """What the original printed for a server: its address and its configuration."""
    text = (HERE.parent / "data" / "bedrock" / "expanded-query.json").read_text()
    ((address, config),) = json.loads(text).items()
    return address, config


def test_the_expanded_configuration_is_that_of_the_original(tmp_path: Path, client: Client) -> None:
    _, expected = fixture()
    expected["libraries"].remove("libmofka-bedrock-module.so")
    expected["providers"] = [p for p in expected["providers"] if p["type"] != "mofka"]
    expected["providers"][0]["config"] |= {"file": str(tmp_path / "mofka.json"), "bootstrap": "self"}
    with serving(expected, "na+sm") as server:
        config = server.config()
        assert config["margo"].pop("plumber") == {"bucket_policy": "package", "nic_policy": "roundrobin"}
        expected["margo"]["mercury"]["address"] = server.address
        assert config == expected
        assert list(config) == sorted(config)
        token = importlib.import_module("mochi.flock.group_file").read(tmp_path / "mofka.json").token
        client.set_token(server.address, token)
        assert BedrockClient(client).config(server.address) == server.config()


def expansion(pools: list[str], xstreams: dict[str, str], progress: str, rpc: str) -> dict[str, Any]:
    """The margo section that the original shows, but for its address."""
    return {
        "argobots": {
            "abt_mem_max_num_stacks": 8,
            "abt_thread_stacksize": 2097152,
            "lazy_stack_alloc": False,
            "pools": [{"access": "mpmc", "kind": "fifo_wait", "name": name} for name in pools],
            "profiling_dir": ".",
            "xstreams": [
                {"name": name, "scheduler": {"pools": [pool], "type": "basic_wait"}}
                for name, pool in xstreams.items()
            ],
        },
        "enable_abt_profiling": False,
        "handle_cache_size": 256,
        "mercury": {
            "auto_sm": False,
            "checksum_level": "none",
            "input_eager_size": 4080,
            "listening": True,
            "log_level": "warning",
            "log_subsys": "hg,na",
            "max_contexts": 0,
            "na_addr_format": "unspec",
            "na_max_expected_size": 0,
            "na_max_unexpected_size": 0,
            "na_no_block": False,
            "na_no_retry": False,
            "na_request_mem_device": False,
            "no_bulk_eager": False,
            "no_loopback": False,
            "output_eager_size": 4080,
            "request_post_incr": 256,
            "request_post_init": 256,
            "stats": False,
            "version": "2.4.1",
        },
        "plumber": {"bucket_policy": "package", "nic_policy": "roundrobin"},
        "progress_pool": progress,
        "progress_spindown_msec": 10,
        "progress_timeout_ub_msec": 100,
        "rpc_pool": rpc,
        "version": "0.24.0",
    }


THREADS = {"use_progress_thread": True, "rpc_thread_count": 4}
IO_POOL = {
    "argobots": {
        "pools": [
            {"name": "__primary__", "kind": "fifo_wait", "access": "mpmc"},
            {"name": "io_pool", "kind": "fifo_wait", "access": "mpmc"},
        ],
        "xstreams": [
            {"name": "__primary__", "scheduler": {"type": "basic_wait", "pools": ["__primary__"]}},
            {"name": "io_es_0", "scheduler": {"type": "basic_wait", "pools": ["io_pool"]}},
            {"name": "io_es_1", "scheduler": {"type": "basic_wait", "pools": ["io_pool"]}},
        ],
    }
}


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, expansion(["__primary__"], {"__primary__": "__primary__"}, "__primary__", "__primary__")),
        (
            THREADS,
            expansion(
                ["__primary__", "__pool_1__", "__pool_2__"],
                {
                    "__primary__": "__primary__",
                    "__xstream_1__": "__pool_1__",
                    **{f"__xstream_{number}__": "__pool_2__" for number in range(2, 6)},
                },
                "__pool_1__",
                "__pool_2__",
            ),
        ),
        (
            THREADS | IO_POOL,
            expansion(
                ["__primary__", "io_pool", "__pool_2__", "__pool_3__"],
                {
                    "__primary__": "__primary__",
                    "io_es_0": "io_pool",
                    "io_es_1": "io_pool",
                    "__xstream_3__": "__pool_2__",
                    **{f"__xstream_{number}__": "__pool_3__" for number in range(4, 8)},
                },
                "__pool_2__",
                "__pool_3__",
            ),
        ),
    ],
    ids=["empty", "threads", "full"],
)
def test_margo_is_shown_field_for_field_as_the_original_shows_it(
    section: dict[str, Any], expected: dict[str, Any], client: Client
) -> None:
    with serving({"margo": section}) as server:
        shown = BedrockClient(client).config(server.address)
        assert shown["margo"]["mercury"].pop("address") == server.address
        assert shown == {
            "bedrock": {"pool": expected["rpc_pool"], "provider_id": 0},
            "libraries": [],
            "margo": expected,
            "providers": [],
        }


def test_a_saved_configuration_deploys_the_same_server_again() -> None:
    address = f"na+sm://bedrock-test-{os.getpid()}"
    stream = {"name": "io_es", "scheduler": {"pools": ["io"]}}
    pools = {"rpc_thread_count": 2, "argobots": {"pools": [{"name": "io"}], "xstreams": [stream]}}
    config = deployment(
        database(tags=["x"]),
        probe("a", provider_id=7, dependencies={"pool": "io", "database": "db@local"}),
        probe("b", dependencies={"peers": ["a", "probe:7"], "xstream": 1}),
        margo=pools,
        bedrock={"provider_id": 4},
    )
    with serving(config, address) as server:
        saved = server.config()
    assert saved["providers"][1]["dependencies"] == {"pool": "io", "database": f"yokan:0@{address}"}
    assert saved["providers"][2]["dependencies"] == {"peers": ["a", "a"], "xstream": "__primary__"}
    with serving(saved, None) as server:
        assert server.config() == saved
    with serving(saved, "na+sm") as server:
        again = json.dumps(server.config())
        assert again.replace(server.address, address) == json.dumps(saved)


def test_without_any_address_nothing_is_deployed() -> None:
    with pytest.raises(ConfigError, match=r"margo\.mercury\.address: missing"):
        Deployment(parse({}))


def test_dependencies_reach_the_module_as_what_they_mean() -> None:
    given = {
        "pool": ["__rpc__"],
        "xstream": "__primary__",
        "peer": "probe:9",
        "peers": "a@local",
        "database": "db",
    }
    with serving(
        deployment(database(), probe("a", provider_id=9), probe("b", dependencies=given), margo={})
    ) as server:
        component = importlib.import_module("probe_component")
        running = server._running
        dependent: Any = running["b"].provider
        resolved = dependent.dependencies
        assert isinstance(running["a"].provider, component.Probe)
        assert resolved["pool"] is server.engine.pool("__primary__")
        assert resolved["xstream"] == "__primary__"
        assert resolved["peer"] is running["a"].provider
        assert resolved["peers"] == [ProviderHandle(server.address, 9, "probe")]
        assert resolved["database"] is running["db"].provider


@pytest.mark.parametrize(
    ("dependencies", "where", "words"),
    [
        ({"pol": "x"}, "pol", ["unknown field", "'pool'"]),
        ({"pool": "__primry__"}, "pool", ["'__primary__'"]),
        ({"pool": 2}, "pool", ["0 to 1", "found 2"]),
        ({"pool": ["__primary__", "__rpc__"]}, "pool", ["expected one pool", "array of 2"]),
        ({"xstream": "x"}, "xstream", ["__primary__"]),
        ({"peer": 9}, "peer", ["expected a provider of type probe", "the number 9"]),
        ({"peer": "db"}, "peer", ["of type probe", "of type yokan"]),
        ({"peer": "yokan:1"}, "peer", ["of type probe", "of type yokan"]),
        ({"peer": "probe:1"}, "peer", ['no provider "probe:1"', "'probe:2'"]),
        ({"peer": "c"}, "peer", ['no provider "c" comes before', "db, a"]),
        ({"peer": "db@local"}, "peer", ["of type probe", "of type yokan"]),
        ({"peer": "aa@local"}, "peer", ['no provider "aa"', "'a'"]),
        ({"peer": "a@na+sm://nobody-listens-here"}, "peer", ["cannot be found", "nobody-listens-here"]),
        ({"peer": "a@tpc://x"}, "peer", ["cannot be found", "'tpc'", "'tcp'"]),
        ({"peer": "a@1"}, "peer", ['"a@1" names rank 1', "started alone, as rank 0"]),
        ({"peer": "db@0"}, "peer", ["of type probe", "of type yokan"]),
        ({"pool": "unserved"}, "pool", ['no xstream serves the pool "unserved"', "served: __primary__"]),
        ({}, "peer", ["missing", "needs a probe"]),
    ],
)
def test_a_dependency_that_means_nothing_is_refused_at_its_field(
    dependencies: dict[str, Any], where: str, words: list[str]
) -> None:
    config = deployment(
        database(),
        probe("a"),
        probe("b", config={"needs_peer": True}, dependencies=dependencies),
        probe("c"),
        bedrock={"dependency_resolution_timeout": 0},
        margo={"argobots": {"pools": [{"name": "__primary__"}, {"name": "unserved"}]}},
    )
    with pytest.raises(ConfigError) as caught, serving(config):
        pass
    assert caught.value.where == f"providers[2].dependencies.{where}"
    assert all(word in caught.value.problem for word in words), caught.value.problem


def test_providers_are_published_after_the_last_and_closed_in_reverse(events: list[tuple[str, str]]) -> None:
    with serving(deployment(probe("a"), probe("b"))):
        pass
    steps = ["create a", "create b", "ready a", "ready b", "close b", "close a"]
    assert [" ".join(event) for event in events] == steps


def test_a_provider_that_closes_badly_does_not_keep_others_open(
    events: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    with serving(deployment(probe("a"), probe("b", config={"fail": "close"}))):
        pass
    assert events[-2:] == [("close", "b"), ("close", "a")]
    assert "provider b did not close cleanly" in caplog.text


@pytest.mark.parametrize("step", ["create", "ready"])
def test_a_deployment_that_fails_closes_what_it_started(step: str, events: list[tuple[str, str]]) -> None:
    address = f"na+sm://bedrock-test-{os.getpid()}"
    with (
        pytest.raises(
            DeploymentError, match=rf'providers\[1\]: provider "b" cannot start: RuntimeError: {step}'
        ),
        serving(deployment(probe("a"), probe("b", config={"fail": step})), address),
    ):
        pass
    assert events[-1] == ("close", "a")
    with serving({}, address):
        pass


@pytest.mark.parametrize("step", ["dependencies", "create", "ready"])
def test_an_error_of_a_component_gets_the_path_of_its_provider(step: str) -> None:
    with pytest.raises(ConfigError) as caught, serving(deployment(probe("a", config={"refuse": step}))):
        pass
    assert str(caught.value) == f"providers[0].config.refuse: found {step}; expected nothing"


def test_an_unknown_library_is_a_warning_and_a_missing_type_an_error(
    caplog: pytest.LogCaptureFixture, events: list[tuple[str, str]]
) -> None:
    unknown = "libyokn-bedrock-module.so"
    libraries = [unknown, "libwarabi-bedrock-module.so", PROBE]
    with serving({"libraries": libraries}) as server:
        assert server.config()["libraries"] == libraries
    warnings = [message for message in caplog.messages if message.startswith("libraries")]
    assert warnings == [f"libraries: unknown library \"{unknown}\"; did you mean '{YOKAN}'?; ignored"]
    with (
        pytest.raises(ConfigError) as caught,
        serving({"libraries": libraries, "providers": [probe("a"), database()]}),
    ):
        pass
    assert caught.value.where == "providers[1].type"
    assert f'add "{YOKAN}" to libraries' in caught.value.problem
    assert events == []


@pytest.mark.parametrize(
    ("provider_type", "hint"),
    [
        ("prob", "did you mean 'probe'?"),
        ("abt_io", '"libabt-io-bedrock-module.so"'),
        ("zz", "no known library"),
    ],
)
def test_a_type_that_nobody_brings_is_refused_with_a_hint(provider_type: str, hint: str) -> None:
    with (
        pytest.raises(ConfigError) as caught,
        serving({"libraries": [PROBE], "providers": [probe("a") | {"type": provider_type}]}),
    ):
        pass
    assert hint in caught.value.problem


def test_a_library_that_cannot_be_imported_stops_who_needs_it_alone(
    caplog: pytest.LogCaptureFixture, client: Client
) -> None:
    broken = "libbroken-bedrock-module.so"
    problem = f'library "{broken}" cannot be loaded: AttributeError'
    with serving({"libraries": [broken, PROBE], "providers": [probe("a")]}) as server:
        assert server.config()["libraries"] == [broken, PROBE]
        with pytest.raises(Fault, match=problem):
            BedrockClient(client).load_module(server.address, broken)
    assert [m for m in caplog.messages if m.startswith(f"libraries: {problem}")]
    with (
        pytest.raises(ConfigError, match=problem) as caught,
        serving({"libraries": [broken], "providers": [probe("a") | {"type": "broken"}]}),
    ):
        pass
    assert caught.value.where == "providers[0].type"


@pytest.mark.parametrize(
    "spelling",
    [
        "/opt/lib/libyokan-bedrock-module.so",
        "./lib/../libyokan-bedrock-module.so",
        "libyokan-bedrock-module.so.0.9.1",
        "libyokan-bedrock-module.dylib",
        "libyokan-bedrock-module.0.dylib",
        "libyokan_bedrock_module.so",
        "libyokan-bedrock.so",
        "yokan-bedrock-module",
    ],
)
def test_a_library_is_known_by_its_path_and_in_spellings_of_old(
    spelling: str, caplog: pytest.LogCaptureFixture
) -> None:
    libraries = [spelling, YOKAN, "libabt_io-bedrock-module.so"]
    with serving({"libraries": libraries, "providers": [database()]}) as server:
        assert server.config()["libraries"] == libraries
        assert set(server._modules) == {"yokan", "abt_io"}
        assert type(server.provider("db")).__name__ == "YokanProvider"
    assert "unknown library" not in caplog.text


def test_a_path_that_means_nothing_is_a_warning_and_a_dependency_too(
    caplog: pytest.LogCaptureFixture, events: list[tuple[str, str]]
) -> None:
    libraries = ["/opt/lib/libyokn-bedrock-module.so", "colza/libcolza-bedrock-module.so", PROBE]
    dependencies = {"remi_sender": "remi_sender", "remi_receiver": ["remi:7"]}
    with serving({"libraries": libraries, "providers": [probe("a", dependencies=dependencies)]}) as server:
        assert server.config()["providers"][0]["dependencies"] == {}
    assert [m for m in caplog.messages if m.startswith(("libraries", "providers"))] == [
        f"libraries: unknown library \"{libraries[0]}\"; did you mean '{YOKAN}'?; ignored",
        f'libraries: unknown library "{libraries[1]}"; ignored',
        "providers[0].dependencies.remi_sender: ignored, the type probe has no such one",
        "providers[0].dependencies.remi_receiver: ignored, the type probe has no such one",
    ]


@pytest.mark.parametrize("margo", [{}, {"use_progress_thread": True, "rpc_thread_count": 2}])
def test_providers_start_and_stop_while_the_server_runs(
    margo: dict[str, Any], client: Client, events: list[tuple[str, str]]
) -> None:
    bedrock = BedrockClient(client)
    with serving({"margo": margo}) as server:
        address = server.address
        with pytest.raises(Fault, match=PROBE) as caught:
            bedrock.start_provider(address, probe("a"))
        assert caught.value.code == "config"
        bedrock.load_module(address, PROBE)
        assert bedrock.config(address)["libraries"] == [PROBE]
        assert bedrock.start_provider(address, probe("a")) == 1
        assert bedrock.start_provider(address, probe("b", dependencies={"peer": "a"})) == 2
        assert events[-2:] == [("create", "b"), ("ready", "b")]
        assert client.call(address, "probe_ping", Ping(), str, provider_id=2) == "b"
        assert bedrock.lookup(address, "probe:2") == bedrock.lookup(address, "b")
        with pytest.raises(Fault, match='"a" is needed by b'):
            bedrock.stop_provider(address, "a")
        bedrock.stop_provider(address, "b")
        assert names(bedrock.config(address)) == ["a"]
        with pytest.raises(Fault, match="no provider 2"):
            client.call(address, "probe_ping", Ping(), str, provider_id=2)
        with pytest.raises(Fault, match='no provider is named "b"'):
            bedrock.stop_provider(address, "b")
        with pytest.raises(Fault) as caught:
            bedrock.lookup(address, "b")
        assert caught.value.code == "not_found"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (probe("b", config={"fail": "create"}), 'provider "b" cannot start: RuntimeError: create failed'),
        (probe("b", config={"fail": "ready"}), 'provider "b" cannot start: RuntimeError: ready failed'),
        (probe("b", config={"refuse": "create"}), "provider.config.refuse: found create"),
        (probe("b", provider_id=1), "provider.provider_id: 1 is the id of a"),
        (probe("b", provider_id=0), "bedrock itself"),
        (probe("a"), 'provider.name: "a" is the name'),
        (probe("b", confg={}), "provider.confg: unknown field"),
        (probe("b", dependencies={"peer": "c"}), "provider.dependencies.peer: no provider"),
    ],
)
def test_a_failed_start_at_run_time_is_a_fault_and_leaves_nothing(
    spec: dict[str, Any], words: str, client: Client, events: list[tuple[str, str]]
) -> None:
    bedrock = BedrockClient(client)
    with serving(deployment(probe("a"))) as server:
        before = bedrock.config(server.address)
        with pytest.raises(Fault) as caught:
            bedrock.start_provider(server.address, spec)
        assert caught.value.code == "config"
        assert words in caught.value.message
        assert bedrock.config(server.address) == before
        with pytest.raises(Fault, match="no provider 2"):
            client.call(server.address, "probe_ping", Ping(), str, provider_id=2)
        assert bedrock.start_provider(server.address, probe("b")) == 2


def test_a_handle_of_another_server_is_checked_there(client: Client) -> None:
    with serving(deployment(probe("far"), database())) as other:
        where = other.address
        near = deployment(probe("a", dependencies={"peer": f"far@{where}", "database": f"yokan:2@{where}"}))
        with serving(near) as server:
            shown = server.config()["providers"][0]["dependencies"]
            assert shown == {"peer": f"probe:1@{where}", "database": f"yokan:2@{where}"}
            spec = probe("b", dependencies={"peer": f"db@{where}"})
            with pytest.raises(Fault, match=r"expected a provider of type probe; found .* of type yokan"):
                BedrockClient(client).start_provider(server.address, spec)
            with pytest.raises(BedrockError, match='"b"'):
                server.stop_provider("b")


def test_a_deployment_waits_for_a_provider_of_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(deployment()) as other:
        waiting = threading.Event()
        found = other.lookup_provider

        def look_up(spec: str) -> ProviderHandle | None:
            waiting.set()
            return found(spec)

        monkeypatch.setattr(other, "lookup_provider", look_up)
        late = threading.Thread(target=lambda: waiting.wait(10) and other.start_provider(probe("far")))
        late.start()
        config = deployment(probe("a", dependencies={"peer": f"far@{other.address}"}))
        with serving(config) as server:
            assert server.config()["providers"][0]["dependencies"] == {"peer": f"probe:1@{other.address}"}
        late.join()


def resolved(dependencies: dict[str, Any], world: World) -> dict[str, Any]:
    """Dependencies on probes as they are shown, where every server has any probe."""
    engine = Engine("na+sm")
    try:
        return resolve(
            ProviderSpec(name="a", type="probe", dependencies=dependencies),
            {"peer": ("probe", False), "peers": ("probe[]", False)},
            "providers[0]",
            engine=engine,
            running={},
            own_names=("local", engine.address),
            world=world,
            look_up=lambda what, address: ProviderHandle(address, 5, "probe"),
        ).shown
    finally:
        engine.finalize()
        engine.run()


def test_digits_behind_an_at_are_the_rank_of_a_process_that_was_started_together() -> None:
    addresses = [f"na+sm://bedrock-test-{os.getpid()}-{rank}" for rank in range(2)]
    far = deployment(probe("far", provider_id=5))
    near = deployment(
        probe("own"), probe("a", dependencies={"peer": "probe:5@0", "peers": ["far@0", "own@1", "own@local"]})
    )
    told = Told(1, 3, {0: addresses[0]})
    with serving(far, addresses[0]), serving(near, addresses[1], told) as server:
        shown = server.config()["providers"][1]["dependencies"]
        own = f"probe:1@{addresses[1]}"
        assert shown == {"peer": f"probe:5@{addresses[0]}", "peers": [f"probe:5@{addresses[0]}", own, own]}
        for rank, problem in ((2, "whose address is not known yet"), (3, "ranks are 0 to 2")):
            with pytest.raises(ConfigError, match=f'"far@{rank}" names rank {rank}[,;] {problem}'):
                server.start_provider(probe("b", dependencies={"peer": f"far@{rank}"}))


@pytest.mark.parametrize(
    ("value", "world", "problem"),
    [
        ("x@1", World(0, 1, ["na+sm://zero"]), "names rank 1; this server was started alone, as rank 0"),
        ("x@2", World(0, 2, ["na+sm://zero", "na+sm://one"]), "names rank 2; ranks are 0 to 1"),
        ("x@1", World(0, 2, ["na+sm://zero", "<uninitialized>"]), "names rank 1, whose address is not known"),
        ("x@1", World(1, 2, ["na+sm://zero", "na+sm://one"]), 'no provider "x" comes before this one'),
    ],
)
def test_a_rank_that_is_not_there_or_has_no_such_provider_is_refused(
    value: str, world: World, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved({"peer": value}, world)
    assert caught.value.where == "providers[0].dependencies.peer"
    assert problem in caught.value.problem


def test_servers_that_wait_for_each_other_answer_meanwhile() -> None:
    addresses = [f"na+sm://bedrock-test-{os.getpid()}-{rank}" for rank in range(2)]
    with ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        starting = [
            threads.submit(
                lambda rank=rank: stack.enter_context(
                    serving(
                        deployment(
                            probe("first"),
                            probe("second", dependencies={"peer": f"first@{addresses[1 - rank]}"}),
                        ),
                        addresses[rank],
                    )
                )
            )
            for rank in range(2)
        ]
        servers = [start.result(30) for start in starting]
        shown = [server.config()["providers"][1]["dependencies"]["peer"] for server in servers]
        assert shown == [f"probe:1@{addresses[1]}", f"probe:1@{addresses[0]}"]


def flock(bootstrap: str = "self") -> dict[str, Any]:
    return {"name": "group", "type": "flock", "config": {"bootstrap": bootstrap, "group": {"type": "static"}}}


def test_servers_that_were_started_together_wait_for_each_other_before_their_flock_providers_are_made() -> (
    None
):
    addresses = [f"na+sm://bedrock-test-{os.getpid()}-{rank}" for rank in range(2)]
    barrier = threading.Barrier(2)
    with ExitStack() as stack, ThreadPoolExecutor(2) as threads:
        starting = [
            threads.submit(
                lambda rank=rank: stack.enter_context(
                    serving(
                        deployment(
                            probe("first"),
                            probe("second", dependencies={"peer": f"first@{1 - rank}"}),
                            flock(),
                            libraries=[PROBE, "libflock-bedrock-module.so"],
                        ),
                        addresses[rank],
                        Sharing(rank, {1 - rank: addresses[1 - rank]}, barrier),
                    )
                )
            )
            for rank in range(2)
        ]
        servers = [start.result(30) for start in starting]
        assert len({server.engine.gate.token for server in servers}) == 2


def test_a_server_that_waits_before_its_flock_provider_is_made_answers_its_peers_alone(
    client: Client,
) -> None:
    own, other = (f"na+sm://bedrock-test-{os.getpid()}-{name}" for name in ("own", "other"))
    config = deployment(
        probe("waits", dependencies={"peer": f"far@{other}"}),
        flock(),
        libraries=[PROBE, "libflock-bedrock-module.so"],
    )
    peer, bedrock = Client(timeout=10), BedrockClient(client)
    peer.set_token(own, Sharing.SECRET, 1)

    def is_up() -> bool:
        try:
            peer.link(own)
        except AddressError:
            return False
        return True

    with ExitStack() as stack, ThreadPoolExecutor(1) as threads:
        stack.callback(peer.close)
        starting = threads.submit(
            lambda: stack.enter_context(
                serving(config, own, Sharing(1, {0: "na+sm://nobody"}, threading.Barrier(1)))
            )
        )
        while not is_up():
            assert not starting.done()
            time.sleep(0.01)
        for ask in (
            bedrock.config,
            bedrock.shutdown,
            lambda where: bedrock.start_provider(where, probe("x")),
        ):
            with pytest.raises(AddressError, match="does not know yet who may come in"):
                ask(own)
        assert names(BedrockClient(peer).config(own)) == []
        with serving(deployment(probe("far")), other):
            server = starting.result(30)
        token = server.engine.gate.token
        assert token not in (None, Sharing.SECRET)
        client.set_token(own, token, 1)
        assert names(bedrock.config(own)) == ["waits", "group"]
        late = Client(timeout=10)
        stack.callback(late.close)
        late.set_token(own, Sharing.SECRET, 1)
        with pytest.raises(AuthenticationError):
            late.link(own)


def test_the_wait_for_a_dependency_ends_at_its_deadline() -> None:
    """A server that accepts connections and says nothing is the worst case."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host, port = silent.getsockname()
        config = deployment(
            probe("a", dependencies={"peer": f"x@ofi+tcp://{host}:{port}"}),
            bedrock={"dependency_resolution_timeout": 0.3},
        )
        begin = time.monotonic()
        with pytest.raises(ConfigError, match=r"cannot be found: .*does not greet"), serving(config):
            pass
        assert 0.3 <= time.monotonic() - begin < 5


def test_a_server_goes_on_while_a_new_provider_waits_for_its_dependency(client: Client) -> None:
    with (
        serving(deployment(), f"na+sm://bedrock-test-{os.getpid()}") as other,
        serving(deployment()) as server,
    ):
        asked = threading.Event()
        found = other.lookup_provider

        def look_up(spec: str) -> ProviderHandle | None:
            asked.set()
            return found(spec)

        other.lookup_provider = look_up  # type: ignore[method-assign]
        bedrock = BedrockClient(client)
        spec = probe("a", dependencies={"peer": f"far@{other.address}"})
        with ThreadPoolExecutor(1) as threads:
            starting = threads.submit(bedrock.start_provider, server.address, spec)
            assert asked.wait(10)
            assert names(BedrockClient(Client(timeout=10)).config(server.address)) == []
            assert not starting.done()
            other.start_provider(probe("far"))
            assert starting.result(10) == 1
        assert names(server.config()) == ["a"]


def test_pools_and_xstreams_are_added_and_removed_while_the_server_runs(client: Client) -> None:
    with serving(deployment()) as server:
        handle = BedrockApi(client).make_service_handle(server.address)
        before = handle.config
        handle.add_pool({"name": "io", "kind": "prio_wait"})
        with pytest.raises(ClientException, match=r'no xstream serves the pool "io"'):
            handle.add_provider(probe("a", dependencies={"pool": "io"}))
        handle.add_xstream(json.dumps({"name": "es", "scheduler": {"type": "prio", "pools": ["io"]}}))
        handle.add_provider(ProviderSpec(name="a", type="probe", dependencies={"pool": "io"}))
        handle.add_provider(probe("b", dependencies={"xstream": "es"}))
        spec = handle.spec
        assert spec.margo.argobots.pools["io"] == PoolSpec(name="io", kind="prio_wait")
        assert spec.margo.argobots.xstreams["es"].scheduler.pools == ["io"]
        assert "a" in spec.providers
        assert spec.to_dict() == handle.config
        running: Any = server._running["a"].provider
        where = running.dependencies["pool"].submit(lambda: threading.current_thread().name)
        assert where.result(10) == "es"
        for name, user in (("io", "xstream es, provider a"), ("__rpc__", "progress_pool, rpc_pool")):
            with pytest.raises(ClientException, match=f"cannot be removed: it is needed by {user}"):
                handle.remove_pool(name)
        with pytest.raises(ClientException, match="needed by provider b, pool io of provider a"):
            handle.remove_xstream("es")
        handle.remove_provider("b")
        with pytest.raises(
            ClientException, match=r'"es" cannot be removed: it is needed by pool io of provider a'
        ):
            handle.remove_xstream("es")
        handle.add_xstream(XstreamSpec(name="es2", scheduler=SchedulerSpec(pools=["io"])))
        handle.remove_xstream("es")
        handle.remove_provider("a")
        handle.remove_xstream("es2")
        handle.remove_pool("io")
        assert handle.config == before
        with pytest.raises(ClientException, match='no pool is named "oi"'):
            handle.remove_pool("oi")
        with pytest.raises(ClientException, match=r"pool\.kind: expected one of"):
            handle.add_pool(PoolSpec(name="x", kind="lifo"))  # type: ignore[arg-type]


def test_the_pool_of_bedrock_itself_stays(client: Client) -> None:
    margo = {
        "argobots": {"pools": [{"name": "b"}], "xstreams": [{"name": "x", "scheduler": {"pools": ["b"]}}]}
    }
    with serving({"margo": margo, "bedrock": {"pool": "b"}}) as server:
        handle = BedrockApi(client).make_service_handle(server.address)
        with pytest.raises(ClientException, match="needed by pool b of bedrock"):
            handle.remove_xstream("x")
        with pytest.raises(ClientException, match="needed by xstream x, bedrock"):
            handle.remove_pool("b")


def test_a_pool_of_bedrock_that_no_xstream_serves_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'bedrock\.pool: no xstream serves the pool "b"'):
        parse({"margo": {"argobots": {"pools": [{"name": "b"}]}}, "bedrock": {"pool": "b"}})


def test_handles_of_a_group_ask_all_its_servers(tmp_path: Path) -> None:
    file = tmp_path / "group.json"
    flock = {
        "name": "g",
        "type": "flock",
        "config": {"bootstrap": "self", "file": str(file), "group": {"type": "static"}},
    }
    config = {"libraries": ["libflock-bedrock-module.so"], "providers": [flock]}
    with serving(config) as server, serving(deployment()) as other:
        group = BedrockApi("na+sm").make_service_group_handle_from_flock(file)
        assert (len(group), group.size, group[0].address) == (1, 1, server.address)
        assert group.config == {server.address: server.config()}
        assert group.spec[server.address].providers["g"].type == "flock"
        assert group.query("return $__config__.providers[0].name;") == {server.address: "g"}
        group.refresh()
        assert [handle.address for handle in group] == [server.address]
        api = BedrockApi(server.engine)
        assert api.make_service_handle(server.address).config == server.config()
        plain = BedrockApi("tcp").make_service_group_handle([other.address, server.address])
        assert [handle.address for handle in plain] == [other.address, server.address]
        with pytest.raises(ClientException):
            _ = plain.config
    with pytest.raises(ClientException, match=r"group\.json"):
        group.refresh()
    with pytest.raises(ClientException, match="'tpc'"):
        BedrockApi("tpc")


def test_an_address_of_no_known_form_is_not_waited_for(client: Client) -> None:
    with pytest.raises(AddressError, match="tpc"):
        BedrockClient(client).lookup("tpc://x", "a", timeout=600)


@pytest.mark.parametrize("margo", [{}, {"use_progress_thread": True, "rpc_thread_count": 2}])
def test_a_script_is_run_over_the_expanded_configuration(margo: dict[str, Any], client: Client) -> None:
    bedrock = BedrockClient(client)
    with serving(deployment(probe("a", tags=["x"]), margo=margo)) as server:
        address = server.address
        assert bedrock.query(address, "return $__config__;") == server.config()
        assert bedrock.query(address, "return $__config__.providers[0].tags[0];") == "x"
        world = {"rank": 0, "size": 1, "addresses": [address]}
        assert bedrock.query(address, "return $MPI_COMM_WORLD;") == world
        bedrock.query(address, "$__config__.providers = []; return $__config__;")
        assert names(bedrock.config(address)) == ["a"]


def test_queries_run_beside_the_event_loop_and_connections_take_turns(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, order = threading.Semaphore(0), []

    def query(self: Deployment, script: str, warn: object, pause: object) -> str:
        assert go.acquire(timeout=20)
        order.append(script)
        return script

    monkeypatch.setattr(Deployment, "query", query)
    other = Client(timeout=20)
    with serving(deployment(probe("p"))) as server:
        link = client.link(server.address)
        many = [PendingCall() for _ in range(100)]
        for pending in many:
            link.request(rpc.QUERY_CONFIG, 0, pack(rpc.QueryConfig("many")), pending)
        for _ in range(20):
            assert BedrockClient(other).lookup(server.address, "p").type == "probe"
        few = [PendingCall() for _ in range(3)]
        link_of_few = other.link(server.address)
        for pending in few:
            link_of_few.request(rpc.QUERY_CONFIG, 0, pack(rpc.QueryConfig("few")), pending)
        assert BedrockClient(other).lookup(server.address, "p").type == "probe"
        assert order == []
        for _ in range(103):
            go.release()
        for one, pendings in ((client, many), (other, few)):
            where = one.link(server.address)
            for pending in pendings:
                assert one.wait(pending.is_done, lambda: (where,), time.monotonic() + 20)  # noqa: B023
        assert order.count("many") == 100
        assert "few" in order[:3]
        assert order.index("few", order.index("few") + 1) < 20
    other.close()


def test_without_a_thread_for_it_a_query_is_refused_and_the_server_lives_on(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(deployment()) as server:
        bedrock = BedrockClient(client)
        assert bedrock.query(server.address, "return 1;") == 1

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(Fault, match="can run no queries now") as caught:
                bedrock.query(server.address, "return 1;")
            assert caught.value.code == "unavailable"
        assert bedrock.query(server.address, "return 2;") == 2


@pytest.mark.parametrize(
    ("script", "words", "details"),
    [
        ("return\n(1", "line 2 column 3: unexpected end", {"line": 2, "column": 3}),
        ("\n$a = 1 / 0;", "division by zero", {"line": 2, "column": None}),
        ("while (1) {}", "did not end within 100000 steps", {"line": None, "column": None}),
        (" " * 10_000, "at most 8192 characters", {"line": None, "column": None}),
    ],
)
def test_a_script_that_fails_is_a_fault_with_its_place(
    script: str, words: str, details: dict[str, Any], client: Client
) -> None:
    with serving(deployment()) as server:
        with pytest.raises(Fault, match=words) as caught:
            BedrockClient(client).query(server.address, script)
        assert (caught.value.code, caught.value.details) == ("jx9", details)
        assert BedrockClient(client).query(server.address, "return 1") == 1


def test_shutdown_answers_and_frees_the_address(client: Client) -> None:
    with serving({"bedrock": {"provider_id": 3}}) as server:
        address = server.address
        assert BedrockClient(client, provider_id=3).config(address)["bedrock"]["provider_id"] == 3
        BedrockClient(client).shutdown(address)
    with pytest.raises(AddressError):
        BedrockClient(Client()).config(address)
