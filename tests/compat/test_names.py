"""The modules of mofka-compat, by the names that programs of the original import."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import diaspora_stream.api
import mochi.mofka.client
import pymargo
import pymargo.core
from tests.client.client_server import CONFIG, Server

MODULES = ("pymargo", "pymargo.core", "pydiaspora_stream_api", "pymofka_client")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "na+sm")
    yield server
    server.kill()


def test_names_are_those_of_mofka() -> None:
    import pydiaspora_stream_api
    import pymofka_client

    for name in ("Driver", "FutureFlushed", "Exception", "AdaptiveBatchSize", "ByteArrayAllocator"):
        assert getattr(pydiaspora_stream_api, name) is getattr(diaspora_stream.api, name)
    assert "ClientException" not in pydiaspora_stream_api.__all__
    assert pymofka_client.MofkaDriver is mochi.mofka.client.MofkaDriver
    with pytest.raises(AttributeError, match="NoSuchName"):
        pymofka_client.NoSuchName  # noqa: B018


def test_an_engine_is_made_and_passed_on(server: Server) -> None:
    with pymargo.core.Engine("na+sm", pymargo.core.client) as engine:
        assert isinstance(engine.mid, int)
        with pytest.raises(pymargo.MargoException, match="does not listen"):
            engine.addr()
        assert engine.lookup(server.address) == server.address


def test_an_engine_of_a_server_has_an_address_and_ends() -> None:
    engine = pymargo.core.Engine("na+sm", pymargo.core.server, use_progress_thread=True)
    address = engine.addr()
    assert str(address).startswith("na+sm://")
    assert engine.address == address
    waiting = threading.Thread(target=engine.wait_for_finalize)
    waiting.start()
    engine.finalize()
    engine.finalize()
    waiting.join(30)
    assert not waiting.is_alive()
    with pytest.raises(pymargo.MargoException, match="ended"):
        engine.addr()


def test_what_an_engine_cannot_do_is_told() -> None:
    with pytest.raises(pymargo.MargoException, match="na\\+sm"):
        pymargo.core.Engine("na+sn")
    with pytest.raises(pymargo.MargoException, match="rpc_threads"):
        pymargo.core.Engine("na+sm", options='{"rpc_threads": 3}')
    for options in ("{", "[1]", 5):
        with pytest.raises(pymargo.MargoException, match="margo configuration in JSON"):
            pymargo.core.Engine("na+sm", options=options)
    with pytest.raises(ValueError, match=r"pymargo\.client"):
        pymargo.core.Engine("na+sm", 7)
    with pytest.raises(AttributeError, match="without RPCs of a program's own"):
        pymargo.core.Engine("na+sm").register("hello")


PROGRAM = """
import json, sys
import pymargo.core
from mochi.mofka.client import Engine, MofkaDriver, pymofka_client
from diaspora_stream.api import pydiaspora_stream_api
assert Engine is pymargo.core.Engine and pymofka_client.MofkaDriver is MofkaDriver
assert pydiaspora_stream_api.Driver and pymofka_client.Producer
group_file, protocol = sys.argv[1:]
with Engine(protocol, pymargo.core.server, use_progress_thread=True) as engine:
    for number, arg in enumerate((engine, engine.mid, protocol)):
        driver = MofkaDriver(group_file, arg)
        name = f"t{number}"
        driver.create_topic(name)
        driver.add_memory_partition(name, 0)
        topic = driver.open_topic(name)
        producer = topic.producer("p", batch_size=2, thread_pool=pymofka_client.ThreadPool(1))
        for step in range(5):
            producer.push({"step": step}, b"data")
        producer.flush()
        consumer = topic.consumer("c")
        found = [json.loads(consumer.pull().wait().metadata)["step"] for _ in range(5)]
        assert found == list(range(5)), found
        del producer, consumer, topic, driver
print("done")
"""


def test_a_program_of_the_oldest_generation_runs(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(server.group_file), "na+sm"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_service_in_the_program_itself(tmp_path: Path) -> None:
    settings = {**CONFIG, "providers": [dict(provider) for provider in CONFIG["providers"]]}
    settings["providers"][0]["config"] = {
        **settings["providers"][0]["config"],
        "file": str(tmp_path / "mofka.json"),
    }
    code = (
        "import json, sys; from mochi.bedrock.server import Server;"
        f"server = Server('na+sm', config=json.loads({json.dumps(settings)!r}));"
        f"sys.argv[1:] = [{str(tmp_path / 'mofka.json')!r}, 'na+sm'];"
        f"exec({PROGRAM!r}); MofkaDriver(group_file, server.margo.engine).open_topic('t0'); server.finalize()"
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_without_the_distribution_an_error_names_it() -> None:
    code = "sys.modules['pymargo'] = None; from mochi.mofka.client import Engine"
    done = run(code)
    assert done.returncode == 1
    assert "mofka-compat" in done.stderr.splitlines()[-1]


def run(code: str, *path: Path) -> "subprocess.CompletedProcess[str]":
    insert = "".join(f"sys.path.append({str(entry)!r});" for entry in path)
    return subprocess.run(
        [sys.executable, "-c", f"import sys;{insert}{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("module", MODULES)
def test_a_genuine_module_beside_ours_is_an_error(module: str, tmp_path: Path) -> None:
    top = module.partition(".")[0]
    assert run(f"import {module}", tmp_path).returncode == 0
    (tmp_path / top).mkdir()
    assert run(f"import {module}", tmp_path).returncode == 0, "an empty directory is no module"
    (tmp_path / top / "__init__.py").touch()
    done = run(f"import {module}", tmp_path)
    assert done.returncode == 1
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"ImportError: there are two modules named {top}: ")
    for part in (str(tmp_path / top), "compat", "PYTHONPATH", "pip uninstall mofka-compat"):
        assert part in last
