"""Where work runs, in which order, and what does not hold up what."""

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from mochi.margo.config import MargoConfig
from mochi.margo.engine import Engine
from mochi.margo.pools import Pools, Strand, Work

SECONDS = 20.0


def threaded(xstreams: int, *pools: str) -> MargoConfig:
    """A configuration in which `xstreams` threads serve each of `pools`."""
    return MargoConfig.parse(
        {
            "argobots": {
                "pools": [{"name": "__primary__"}, *({"name": name} for name in pools)],
                "xstreams": [
                    {"name": "__primary__", "scheduler": {"pools": ["__primary__"]}},
                    *(
                        {"name": f"{name}_{number}", "scheduler": {"pools": [name]}}
                        for name in pools
                        for number in range(xstreams)
                    ),
                ],
            }
        }
    )


class Loop:
    """Collects what is posted to the event loop."""

    def __init__(self) -> None:
        self.posted: list[Work] = []

    def run(self) -> None:
        while self.posted:
            self.posted.pop(0)()


@pytest.fixture
def loop() -> Loop:
    return Loop()


def make_pools(loop: Loop, config: MargoConfig, request: pytest.FixtureRequest) -> Pools:
    pools = Pools(config, loop.posted.append)
    request.addfinalizer(pools.close)
    return pools


def test_a_pool_that_only_the_loop_serves_runs_its_work_on_the_loop(loop: Loop, request: Any) -> None:
    pool = make_pools(loop, MargoConfig.parse(None), request)["__primary__"]
    assert pool.inline
    future = pool.submit(threading.get_ident)
    assert not future.done()
    loop.run()
    assert future.result(0) == threading.get_ident()


def test_a_pool_with_xstreams_runs_its_work_there_in_order(loop: Loop, request: Any) -> None:
    pool = make_pools(loop, threaded(1, "io"), request)["io"]
    assert not pool.inline
    order: list[int] = []
    futures = [pool.submit(lambda n=n: order.append(n)) for n in range(200)]
    name = pool.submit(lambda: threading.current_thread().name)
    assert name.result(SECONDS) == "io_0"
    assert all(future.done() for future in futures)
    assert order == list(range(200))
    assert not loop.posted


def test_four_xstreams_run_four_handlers_side_by_side(loop: Loop, request: Any) -> None:
    pool = make_pools(loop, threaded(4, "io"), request)["io"]
    meeting = threading.Barrier(4)

    def meet() -> None:
        meeting.wait(SECONDS)
        threading.Event().wait(0.1)

    begin = time.monotonic()
    for future in [pool.submit(meet) for _ in range(4)]:
        future.result(SECONDS)
    assert time.monotonic() - begin < 0.3


def test_a_blocked_handler_does_not_hold_up_another_pool(loop: Loop, request: Any) -> None:
    pools = make_pools(loop, threaded(1, "slow", "fast"), request)
    go = threading.Event()
    slow = pools["slow"].submit(lambda: go.wait(SECONDS))
    assert pools["fast"].submit(lambda: 1).result(SECONDS) == 1
    assert not slow.done()
    go.set()
    assert slow.result(SECONDS)


def test_errors_reach_the_future_and_not_the_xstream(loop: Loop, request: Any) -> None:
    pool = make_pools(loop, threaded(1, "io"), request)["io"]
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(SECONDS)
    pool.spawn(lambda: 1 // 0)
    assert pool.submit(lambda: 2).result(SECONDS) == 2


def test_a_strand_keeps_the_order_on_many_xstreams_and_runs_one_at_a_time(loop: Loop, request: Any) -> None:
    pool = make_pools(loop, threaded(4, "io"), request)["io"]
    strand = Strand(pool)
    order: list[int] = []
    inside = threading.Lock()
    overlaps = []
    done: Future[None] = Future()

    def work(number: int) -> None:
        if not inside.acquire(blocking=False):
            overlaps.append(number)
            return
        order.append(number)
        inside.release()

    for number in range(1000):
        strand.spawn(lambda number=number: work(number))
    strand.spawn(lambda: done.set_result(None))
    done.result(SECONDS)
    assert not overlaps
    assert order == list(range(1000))


def test_a_busy_strand_lets_other_work_of_its_pool_have_its_turn(loop: Loop, request: Any) -> None:
    pool = make_pools(loop, threaded(1, "io"), request)["io"]
    strand = Strand(pool)
    stop = threading.Event()

    def again() -> None:
        if not stop.is_set():
            strand.spawn(again)

    strand.spawn(again)
    pool.submit(stop.set).result(SECONDS)


def test_an_error_does_not_stop_a_strand(loop: Loop, request: Any) -> None:
    strand = Strand(make_pools(loop, threaded(1, "io"), request)["io"])
    done: Future[None] = Future()
    strand.spawn(lambda: 1 // 0)
    strand.spawn(lambda: done.set_result(None))
    done.result(SECONDS)


def test_a_strand_on_an_inline_pool_runs_at_once(loop: Loop, request: Any) -> None:
    strand = Strand(make_pools(loop, MargoConfig.parse(None), request)["__primary__"])
    ran: list[int] = []
    strand.spawn(lambda: ran.append(1))
    assert ran == [1]


def test_closing_finishes_what_was_given(loop: Loop) -> None:
    pools = Pools(threaded(2, "io"), loop.posted.append)
    futures = [pools[name].submit(lambda: 1) for name in ("io", "__primary__") for _ in range(50)]
    pools.close()
    assert [future.result(0) for future in futures] == [1] * 100
    loop.run()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("io_")]


def test_work_given_to_closed_pools_runs_in_the_thread_that_brings_it(loop: Loop) -> None:
    pools = Pools(threaded(2, "io"), loop.posted.append)
    pools.close()
    for name in ("io", "__primary__"):
        assert pools[name].submit(threading.get_ident).result(0) == threading.get_ident()
    assert not loop.posted


def test_work_for_an_inline_pool_is_not_lost_when_the_engine_ends() -> None:
    engine = Engine("na+sm")
    futures: list[Future[int]] = []
    engine.on_finalize.append(lambda: futures.append(engine.default_pool.submit(lambda: 1)))
    engine.finalize()
    engine.run()
    futures.append(engine.default_pool.submit(lambda: 2))
    assert [future.result(0) for future in futures] == [1, 2]


def test_providers_close_while_xstreams_still_run() -> None:
    engine = Engine("na+sm", threaded(1, "io"))
    names: list[str] = []

    def close() -> None:
        names.append(engine.pool("io").submit(lambda: threading.current_thread().name).result(SECONDS))

    engine.on_finalize.append(close)
    engine.finalize(3)
    assert engine.run() == 3
    assert names == ["io_0"]
