"""Where operations run: beside the loop, side by side, drained by close, never in the way of an exit."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from mochi.abt_io.config import AbtIoConfig
from mochi.abt_io.errors import InstanceClosed
from mochi.abt_io.instance import Instance
from mochi.abt_io.threads import IoThreads
from mochi.margo.config import MargoConfig
from mochi.margo.pools import Pools
from tests.abt_io.uring_here import needs_uring

SECONDS = 10


@pytest.fixture
def pools() -> Iterator[Pools]:
    config = MargoConfig.parse(
        {
            "argobots": {
                "pools": [{"name": "__primary__"}, {"name": "io_pool"}],
                "xstreams": [
                    {"name": "__primary__", "scheduler": {"pools": ["__primary__"]}},
                    {"name": "io_es_0", "scheduler": {"pools": ["io_pool"]}},
                    {"name": "io_es_1", "scheduler": {"pools": ["io_pool"]}},
                ],
            }
        }
    )
    pools = Pools(config, lambda work: pytest.fail("storage ran on the event loop"))
    yield pools
    pools.close()


@pytest.fixture(
    params=[("__primary__", 0), ("io_pool", 0), pytest.param(("__primary__", 1), marks=needs_uring)]
)
def instance(pools: Pools, request: pytest.FixtureRequest) -> Iterator[Instance]:
    pool, urings = request.param
    instance = Instance("io", pools[pool], AbtIoConfig(num_urings=urings))
    yield instance
    instance.close()


def thread_name() -> str:
    return threading.current_thread().name


def test_results_and_errors_come_back(instance: Instance) -> None:
    assert instance.run(lambda: 6 * 7).result(SECONDS) == 42
    with pytest.raises(FileNotFoundError, match="/nowhere/file"):
        instance.run(lambda: instance.files.open("/nowhere/file", writable=False)).result(SECONDS)


def test_a_blocked_operation_leaves_others_running(instance: Instance) -> None:
    release = threading.Event()
    blocked = instance.run(lambda: release.wait(SECONDS))
    assert [instance.run(partial(abs, n)).result(SECONDS) for n in range(50)] == list(range(50))
    assert not blocked.done()
    release.set()
    assert blocked.result(SECONDS)


def test_operations_start_in_the_order_of_the_calls(pools: Pools) -> None:
    threads = IoThreads("ordered", limit=1)
    started: list[int] = []
    futures = [threads.submit(partial(started.append, n)) for n in range(200)]
    threads.close()
    assert all(future.done() for future in futures)
    assert started == list(range(200))


def test_close_waits_for_what_is_under_way_and_waiting(instance: Instance) -> None:
    release = threading.Event()
    done: list[int] = []

    def operation(number: int) -> None:
        assert release.wait(SECONDS)
        done.append(number)

    for number in range(40):
        instance.run(partial(operation, number))
    closing = threading.Thread(target=instance.close)
    closing.start()
    release.set()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert sorted(done) == list(range(40))


def test_a_closed_instance_refuses_operations_and_may_be_closed_again(instance: Instance) -> None:
    instance.close()
    instance.close()
    with pytest.raises(InstanceClosed, match="'io' is closed"):
        instance.run(lambda: None)


def test_a_pool_with_threads_is_used_itself(pools: Pools) -> None:
    instance = Instance("io", pools["io_pool"], AbtIoConfig())
    assert instance.run(thread_name).result(SECONDS) in ("io_es_0", "io_es_1")
    instance.close()


def test_an_inline_pool_gets_private_threads_of_which_one_is_started_in_advance(pools: Pools) -> None:
    def private() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("own-io")]

    instance = Instance("own", pools["__primary__"], AbtIoConfig())
    assert private() == ["own-io-0"]
    assert instance.run(thread_name).result(SECONDS).startswith("own-io-")  # another, if that one is late
    instance.close()
    assert private() == []


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_without_further_threads_operations_wait_for_the_one_that_there_is(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Instance("own", pools["__primary__"], AbtIoConfig())
    release = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        futures = [instance.run(lambda: (release.wait(SECONDS), thread_name())[1]) for _ in range(3)]
        release.set()
        assert [future.result(SECONDS) for future in futures] == ["own-io-0"] * 3
    together = threading.Barrier(2, timeout=SECONDS)
    for future in [instance.run(together.wait) for _ in range(2)]:
        future.result(SECONDS)
    instance.close()


def test_what_no_thread_can_be_had_for_is_refused_and_never_runs(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = IoThreads("none")
    ran: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(OSError, match="no thread can be started now") as refused:
            threads.submit(partial(ran.append, 1))
        assert refused.value.errno == errno.EAGAIN
        with pytest.raises(OSError, match="no thread can be started now"):
            Instance("own", pools["__primary__"], AbtIoConfig())
    threads.submit(partial(ran.append, 2)).result(SECONDS)
    threads.close()
    assert ran == [2]


def test_threads_grow_with_the_demand_up_to_the_limit() -> None:
    threads = IoThreads("limited", limit=3)
    together = threading.Barrier(4)
    release = threading.Event()

    def meet() -> bool:
        if not release.is_set():
            together.wait(SECONDS)
        return release.wait(SECONDS)

    futures = [threads.submit(meet) for _ in range(9)]
    together.wait(SECONDS)
    assert sum(thread.name.startswith("limited-") for thread in threading.enumerate()) == 3
    release.set()
    assert all(future.result(SECONDS) for future in futures)
    threads.close()


def test_a_cancelled_operation_does_not_run() -> None:
    threads = IoThreads("cancelling", limit=1)
    release = threading.Event()
    threads.submit(lambda: release.wait(SECONDS))
    ran: list[bool] = []
    future = threads.submit(lambda: ran.append(True))
    assert future.cancel()
    release.set()
    threads.close()
    assert ran == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_starts_afresh(pools: Pools) -> None:
    instance = Instance("forked", pools["__primary__"], AbtIoConfig())
    release = threading.Event()
    blocked = instance.run(lambda: release.wait(SECONDS))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if instance.run(lambda: 42).result(SECONDS) == 42 else 2
            instance.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not blocked.done()
    release.set()
    assert blocked.result(SECONDS)
    instance.close()


def test_an_operation_that_hangs_does_not_keep_the_interpreter_from_exiting() -> None:
    script = """if True:
        import threading
        from mochi.abt_io.threads import IoThreads
        running = threading.Event()
        def hang():
            running.set()
            threading.Event().wait()
        IoThreads("io").submit(hang)
        running.wait()
    """
    subprocess.run([sys.executable, "-c", script], timeout=SECONDS, check=True)
