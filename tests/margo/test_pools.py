"""Where work runs, in which order, and what does not hold up what."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import pytest

from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.engine import Engine
from mochi.margo.errors import ConfigError, Fault, InUse
from mochi.margo.pools import BOOSTED_TURNS, Pool, Pools, Strand, Work

SECONDS = 20.0

Serve = Callable[..., Engine]


class Nothing(msgspec.Struct):
    """Arguments of the RPCs here."""


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


def one_xstream(scheduler: str, *pools: dict[str, Any]) -> MargoConfig:
    """A configuration in which one xstream ``x`` serves all of `pools`, in their order."""
    serving = {"name": "x", "scheduler": {"type": scheduler, "pools": [pool["name"] for pool in pools]}}
    return MargoConfig.parse({"argobots": {"pools": list(pools), "xstreams": [serving]}})


@contextmanager
def held(pool: Pool) -> Iterator[None]:
    """Keep the one xstream of a pool busy."""
    busy, go = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go.wait(SECONDS)

    future = pool.submit(hold)
    assert busy.wait(SECONDS)
    try:
        yield
    finally:
        go.set()
        future.result(SECONDS)


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
    for future in [pool.submit(lambda: meeting.wait(SECONDS)) for _ in range(4)]:
        future.result(SECONDS)


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("fifo", Strand.TURN),
        ("fifo_wait", Strand.TURN),
        ("earliest_first", 2 * Strand.TURN),
        ("prio_wait", (1 + BOOSTED_TURNS) * Strand.TURN),
    ],
)
def test_the_kind_of_a_pool_says_when_a_strand_lets_others_go_first(
    kind: str, before: int, loop: Loop, request: Any
) -> None:
    pool = make_pools(loop, one_xstream("basic_wait", {"name": "a", "kind": kind}), request)["a"]
    strand = Strand(pool)
    order: list[int | str] = []
    older, all_pieces = Strand.TURN + 1, (3 + BOOSTED_TURNS) * Strand.TURN
    with held(pool):
        for number in range(older):
            strand.spawn(lambda number=number: order.append(number))
        pool.spawn(lambda: order.append("other"))
        for number in range(older, all_pieces):
            strand.spawn(lambda number=number: order.append(number))
        done: Future[None] = Future()
        strand.spawn(lambda: done.set_result(None))
    done.result(SECONDS)
    assert order == [*range(before), "other", *range(before, all_pieces)]


def test_all_kinds_run_equals_in_the_order_of_their_arrival(loop: Loop, request: Any) -> None:
    kinds = ("fifo", "fifo_wait", "prio_wait", "earliest_first")
    pools = make_pools(
        loop, one_xstream("basic_wait", *({"name": kind, "kind": kind} for kind in kinds)), request
    )
    for kind in kinds:
        order: list[int] = []
        with held(pools[kind]):
            futures = [pools[kind].submit(lambda n=n, o=order: o.append(n)) for n in range(100)]
        for future in futures:
            future.result(SECONDS)
        assert order == list(range(100))


@pytest.mark.parametrize("scheduler", ["basic_wait", "default", "basic", "prio", "randws"])
def test_an_xstream_drains_its_first_pool_first(scheduler: str, loop: Loop, request: Any) -> None:
    names = ("a", "b", "c")
    pools = make_pools(loop, one_xstream(scheduler, *({"name": name} for name in names)), request)
    orders = set()
    for _ in range(60):
        order: list[str] = []
        with held(pools["a"]):
            futures = [pools[n].submit(lambda n=n, o=order: o.append(n)) for n in ("c", "b", "a", "a")]
        for future in futures:
            future.result(SECONDS)
        orders.add("".join(order))
    assert orders == ({"aabc", "aacb"} if scheduler == "randws" else {"aabc"})


def test_a_handler_may_answer_later_and_from_another_thread(serve: Serve, client: Client) -> None:
    def later(_: Nothing) -> Future[int]:
        future: Future[int] = Future()
        outcomes = [lambda: future.set_result(1), lambda: future.set_exception(Fault("late", "no"))]
        calls.append(threading.Thread(target=outcomes[len(calls)]))
        calls[-1].start()
        return future

    calls: list[threading.Thread] = []
    engine = serve("na+sm", lambda engine: engine.define("later", 1, Nothing, later))
    assert client.call(engine.address, "later", Nothing(), int, provider_id=1) == 1
    with pytest.raises(Fault, match="no"):
        client.call(engine.address, "later", Nothing(), int, provider_id=1)


HANDLERS = {
    "argobots": {"pools": [{"name": "a"}], "xstreams": [{"name": "x", "scheduler": {"pools": ["a"]}}]}
}


@pytest.mark.parametrize(
    ("section", "where"),
    [
        ({}, {"loop"}),
        ({"rpc_thread_count": 2}, {"__xstream_1__", "__xstream_2__"}),
        ({"use_progress_thread": True}, {"__primary__"}),
        ({"use_progress_thread": True, "rpc_thread_count": 1}, {"__xstream_2__"}),
        ({"use_progress_thread": True, "rpc_thread_count": -1}, {"loop"}),
        (HANDLERS, {"loop"}),
        (HANDLERS | {"rpc_pool": "a"}, {"x"}),
        (HANDLERS | {"rpc_pool": "a", "progress_pool": "__rpc__"}, {"loop"}),
        (HANDLERS | {"progress_pool": "a"}, {"__primary__"}),
        (HANDLERS | {"progress_pool": "a", "rpc_pool": "__progress__"}, {"loop"}),
    ],
)
def test_a_handler_without_a_pool_runs_on_an_xstream_of_the_rpc_pool(
    section: dict[str, Any], where: set[str], serve: Serve, client: Client
) -> None:
    loops: list[int] = []

    def name(_: Nothing) -> str:
        return "loop" if threading.get_ident() in loops else threading.current_thread().name

    engine = serve("na+sm", lambda engine: engine.define("name", 1, Nothing, name), section)
    engine.call_soon(lambda: loops.append(threading.get_ident()))
    assert {client.call(engine.address, "name", Nothing(), str, provider_id=1) for _ in range(5)} <= where


def most_at_once(serve: Serve, client: Client, section: dict[str, Any]) -> int:
    """Return how many of four handlers run at the same time, each until all four do or a moment has passed."""
    meeting = threading.Barrier(4)
    running: list[int] = []
    most = 0

    def meet(_: Nothing) -> None:
        nonlocal most
        running.append(0)
        most = max(most, len(running))
        with suppress(threading.BrokenBarrierError):
            meeting.wait(SECONDS if section["rpc_thread_count"] else 0.05)
        running.pop()

    engine = serve("na+sm", lambda engine: engine.define("meet", 1, Nothing, meet), section)
    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(client.call, engine.address, "meet", Nothing(), type(None), provider_id=1)
            for _ in range(4)
        ]
        for call in calls:
            call.result(SECONDS)
    return most


def test_four_handlers_that_wait_run_side_by_side_on_four_rpc_threads(serve: Serve, client: Client) -> None:
    assert most_at_once(serve, client, {"rpc_thread_count": 4}) == 4


def test_handlers_that_wait_on_the_loop_wait_for_each_other(serve: Serve, client: Client) -> None:
    assert most_at_once(serve, client, {"rpc_thread_count": 0}) == 1


def test_a_bound_xstream_runs_on_its_cores_and_no_others_do(serve: Serve, client: Client) -> None:
    own = sorted(os.sched_getaffinity(0))
    section = {
        "rpc_pool": "a",
        "argobots": {
            "pools": [{"name": "__primary__"}, {"name": "a"}, {"name": "b"}, {"name": "c"}],
            "xstreams": [
                {"name": "__primary__", "scheduler": {"pools": ["__primary__"]}, "cpubind": own[0]},
                {"scheduler": {"pools": ["a"]}, "cpubind": own[-1]},
                {"scheduler": {"pools": ["b"]}, "affinity": own[:1], "cpubind": own[-1]},
                {"scheduler": {"pools": ["c"]}},
            ],
        },
    }

    def cores(_: Nothing) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def define(engine: Engine) -> None:
        for number, name in enumerate(("__primary__", "a", "b", "c")):
            engine.define("cores", number, Nothing, cores, pool=engine.pool(name))

    engine = serve("na+sm", define, section)
    found = [
        client.call(engine.address, "cores", Nothing(), list[int], provider_id=number) for number in range(4)
    ]
    assert found == [own[:1], own[-1:], own[:1], own]


def test_a_loop_that_is_bound_adds_xstreams_that_are_bound_to_other_cores(
    serve: Serve, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    own = sorted(os.sched_getaffinity(0))

    def add(_: Nothing) -> None:
        engine.add_xstream({"name": "x", "scheduler": {"pools": ["a"]}, "cpubind": own[-1]})

    def cores(_: Nothing) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def define(engine: Engine) -> None:
        engine.define("add", 1, Nothing, add, pool=engine.pool("__primary__"))
        engine.define("cores", 1, Nothing, cores, pool=engine.pool("a"))

    primary = {"name": "__primary__", "scheduler": {"pools": ["__primary__"]}, "cpubind": own[0]}
    pools = [{"name": "__primary__"}, {"name": "a"}]
    engine = serve("na+sm", define, {"argobots": {"pools": pools, "xstreams": [primary]}})
    client.call(engine.address, "add", Nothing(), type(None), provider_id=1)
    assert client.call(engine.address, "cores", Nothing(), list[int], provider_id=1) == own[-1:]
    assert not [record for record in caplog.records if "core" in record.message]


def test_the_thread_that_ran_a_bound_loop_is_free_afterwards() -> None:
    own = os.sched_getaffinity(0)
    core = max(own)
    xstream = {"name": "__primary__", "scheduler": {"pools": [0]}, "cpubind": core}
    engine = Engine(
        "na+sm",
        MargoConfig.parse({"argobots": {"pools": [{"name": "__primary__"}], "xstreams": [xstream]}}),
    )
    found: list[set[int]] = []
    engine.call_soon(lambda: found.append(os.sched_getaffinity(0)))
    engine.finalize()
    engine.run()
    assert found == [{core}]
    assert os.sched_getaffinity(0) == own


@pytest.mark.parametrize(
    ("name", "bound", "is_left"),
    [
        ("__primary__", {"cpubind": 4096}, False),
        ("other", {"cpubind": 4096}, False),
        ("other", {"affinity": [4096, 4097]}, False),
        ("other", {"affinity": [-1, 4096]}, True),
    ],
)
def test_a_core_that_this_process_may_not_use_is_a_warning_and_the_thread_is_not_bound_to_it(
    serve: Serve,
    client: Client,
    caplog: pytest.LogCaptureFixture,
    name: str,
    bound: dict[str, Any],
    is_left: bool,
) -> None:
    own = sorted(os.sched_getaffinity(0))
    bound = {
        field: [own[-1] if c == -1 else c for c in v] if isinstance(v, list) else v
        for field, v in bound.items()
    }
    xstreams = [{"name": each, "scheduler": {"pools": [each]}} for each in ("__primary__", "other")]
    section = {
        "argobots": {
            "pools": [{"name": "__primary__"}, {"name": "other"}],
            "xstreams": [{**each, **(bound if each["name"] == name else {})} for each in xstreams],
        }
    }

    def cores(_: Nothing) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    engine = serve("na+sm", lambda e: e.define("cores", 1, Nothing, cores, pool=e.pool(name)), section)
    assert client.call(engine.address, "cores", Nothing(), list[int], provider_id=1) == (
        own[-1:] if is_left else own
    )
    (field,) = bound
    (line,) = [record.message for record in caplog.records if "core 4096" in record.message]
    assert line.startswith(f"margo.argobots.xstreams[{int(name == 'other')}].{field}: core 4096")
    assert engine.expanded_config()["argobots"]["xstreams"][int(name == "other")][field] == bound[field]


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
    pool.spawn(lambda: print(1 // 0))
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
    strand.spawn(lambda: print(1 // 0))
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


def test_work_waits_in_a_pool_until_it_gets_an_xstream(loop: Loop, request: Any) -> None:
    config = MargoConfig.parse(None).with_pool({"name": "late"})
    pools = make_pools(loop, config, request)
    futures = [pools["late"].submit(lambda: threading.current_thread().name) for _ in range(3)]
    config = config.with_xstream({"name": "es", "scheduler": {"pools": ["late"]}})
    pools.add_xstream(config.xstreams[-1])
    assert {future.result(SECONDS) for future in futures} == {"es"}


def test_a_strand_keeps_its_order_while_its_pool_gets_and_loses_an_xstream(
    serve: Serve, client: Client
) -> None:
    order: list[int] = []
    done: Future[None] = Future()

    def define(engine: Engine) -> None:
        strand = Strand(engine.default_pool)

        def piece(number: int) -> None:
            order.append(number)
            if number == 2999:
                done.set_result(None)

        def feed(begin: int) -> None:
            for number in range(begin, begin + 10):
                strand.spawn(lambda number=number: piece(number))
            if begin + 10 < 3000:
                engine.loop.call_soon(feed, begin + 10)

        engine.call_soon(lambda: feed(0))

    engine = serve("na+sm", define)
    while not done.done():
        engine.add_xstream({"name": "helper", "scheduler": {"pools": ["__primary__"]}})
        engine.remove_xstream("helper")
    done.result(SECONDS)
    assert order == list(range(3000))
    assert engine.default_pool.inline


def test_no_work_is_lost_while_xstreams_come_and_go(loop: Loop, request: Any) -> None:
    config = threaded(1, "io")
    pools = make_pools(loop, config, request)
    futures: list[Future[int]] = []

    def submit() -> None:
        futures.extend(pools["io"].submit(lambda n=n: n) for n in range(2000))

    thread = threading.Thread(target=submit)
    thread.start()
    extra = config.with_xstream({"name": "extra", "scheduler": {"pools": ["io"]}}).xstreams[-1]
    while thread.is_alive():
        pools.add_xstream(extra)
        pools.remove_xstream("extra")
    thread.join()
    assert [future.result(SECONDS) for future in futures] == list(range(2000))


def test_a_removed_xstream_ends_after_the_work_that_it_is_at(loop: Loop, request: Any) -> None:
    pools = make_pools(loop, threaded(2, "io"), request)
    go = threading.Event()
    started = [threading.Event(), threading.Event()]

    def hold(number: int) -> str:
        started[number].set()
        go.wait(SECONDS)
        return threading.current_thread().name

    futures = [pools["io"].submit(lambda number=number: hold(number)) for number in range(2)]
    assert all(event.wait(SECONDS) for event in started)
    pools.remove_xstream("io_0")
    go.set()
    assert {future.result(SECONDS) for future in futures} == {"io_0", "io_1"}
    assert {
        pools["io"].submit(lambda: threading.current_thread().name).result(SECONDS) for _ in range(20)
    } == {"io_1"}


def test_pools_and_xstreams_change_while_an_engine_serves(serve: Serve) -> None:
    engine = serve("na+sm", lambda _: None, {"rpc_thread_count": 1})
    before = engine.expanded_config()
    engine.add_pool({"name": "late", "kind": "prio_wait"})
    engine.add_pool({})
    engine.add_xstream({"name": "es", "scheduler": {"type": "prio", "pools": ["late", 3, "__rpc__"]}})
    shown = engine.expanded_config()["argobots"]
    assert shown["pools"][2:] == [
        {"access": "mpmc", "kind": "prio_wait", "name": "late"},
        {"access": "mpmc", "kind": "fifo_wait", "name": "__pool_3__"},
    ]
    assert shown["xstreams"][2:] == [
        {"name": "es", "scheduler": {"pools": ["late", "__pool_3__", "__pool_1__"], "type": "prio"}}
    ]
    assert engine.pool("late").submit(lambda: threading.current_thread().name).result(SECONDS) == "es"
    with pytest.raises(InUse, match='pool "late" cannot be removed: it is needed by xstream es'):
        engine.remove_pool("late")
    engine.remove_xstream("es")
    engine.remove_pool("late")
    engine.remove_pool("__pool_3__")
    assert engine.expanded_config() == before
    for name, user in (("__primary__", "progress_pool"), ("__rpc__", "rpc_pool")):
        with pytest.raises(InUse, match=user):
            engine.remove_pool(name)
    for name, user in (("__primary__", "the network loop"), ("__xstream_1__", "rpc_pool __pool_1__")):
        with pytest.raises(InUse, match=user):
            engine.remove_xstream(name)
    for remove in (engine.remove_pool, engine.remove_xstream):
        with pytest.raises(ConfigError, match="'__primary__'"):
            remove("__primry__")


@pytest.mark.parametrize(
    ("value", "where", "words"),
    [
        ({"name": "__primary__"}, "pool.name", "earlier pool"),
        ({"name": "a", "kind": "fifo_weit"}, "pool.kind", "fifo_wait"),
        ({"nam": "a"}, "pool.nam", "'name'"),
        ({"name": "__primary__", "scheduler": {"pools": [0]}}, "xstream.name", "earlier xstream"),
        (
            {"name": "x", "scheduler": {"pools": ["__primry__"]}},
            "xstream.scheduler.pools[0]",
            "'__primary__'",
        ),
        (
            {"name": "x", "scheduler": {"pools": ["alone"]}},
            "xstream.scheduler.pools",
            "mpsc allows one xstream",
        ),
    ],
)
def test_a_bad_pool_or_xstream_is_refused_at_its_field_and_changes_nothing(
    value: dict[str, Any], where: str, words: str
) -> None:
    section = {
        "argobots": {
            "pools": [{"name": "alone", "access": "mpsc"}],
            "xstreams": [{"scheduler": {"pools": ["alone"]}}],
        }
    }
    engine = Engine("na+sm", MargoConfig.parse(section))
    before = engine.expanded_config()
    with pytest.raises(ConfigError) as caught:
        (engine.add_xstream if where.startswith("xstream") else engine.add_pool)(value)
    assert caught.value.where == where
    assert words in caught.value.problem
    assert engine.expanded_config() == before
    engine.finalize()
    engine.run()


def test_an_xstream_without_a_thread_is_refused_and_leaves_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    config = threaded(1, "pool")
    pools = Pools(config, lambda work: work())
    later = config.with_xstream({"name": "late", "scheduler": {"pools": ["__primary__"]}}, "x").xstreams[-1]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(OSError, match=r"no thread can be started now \(late\)"):
            pools.add_xstream(later)
    assert pools["__primary__"].inline
    pools.add_xstream(later)
    assert not pools["__primary__"].inline
    assert pools["__primary__"].submit(lambda: threading.current_thread().name).result(SECONDS) == "late"
    pools.close()
