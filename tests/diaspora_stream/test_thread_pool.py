"""Thread pools: order, errors, forks, closing."""

import os
import threading

import pytest

from diaspora_stream.errors import DiasporaError
from diaspora_stream.thread_pool import ThreadPool


def test_a_pool_without_threads_runs_work_in_the_caller() -> None:
    pool = ThreadPool()
    assert pool.thread_count == 0
    future = pool.submit(threading.get_ident)
    assert future.done()
    assert future.result() == threading.get_ident()


def test_a_pool_runs_as_many_at_a_time_as_it_has_threads() -> None:
    pool = ThreadPool(2)
    meeting = threading.Barrier(2, timeout=10)
    futures = [pool.submit(meeting.wait) for _ in range(2)]
    assert sorted(future.result(10) for future in futures) == [0, 1]
    pool.close()


def test_threads_start_with_the_first_work() -> None:
    before = threading.active_count()
    pool = ThreadPool(3)
    assert threading.active_count() == before
    pool.submit(lambda: None).result(10)
    assert threading.active_count() > before
    pool.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("count", [0, 1])
def test_what_work_raises_is_in_its_future(count: int) -> None:
    pool = ThreadPool(count)
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result(10)
    pool.close()


def test_close_waits_for_work_and_refuses_more() -> None:
    pool = ThreadPool(1)
    go = threading.Event()
    done: list[int] = []
    pool.submit(lambda: go.wait(10))
    pool.submit(lambda: done.append(1))
    closing = threading.Thread(target=pool.close)
    closing.start()
    go.set()
    closing.join(10)
    assert done == [1]
    pool.close()
    with pytest.raises(DiasporaError, match="closed"):
        pool.submit(lambda: None)


def test_a_forked_child_has_threads_of_its_own() -> None:
    pool = ThreadPool(1)
    pool.submit(lambda: None).result(10)
    child = os.fork()
    if not child:
        os._exit(pool.submit(lambda: 42).result(10))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert pool.submit(lambda: 43).result(10) == 43
    pool.close()


@pytest.mark.parametrize("count", [-1, 1.5, "2"])
def test_a_thread_count_must_be_a_number_of_threads(count: int) -> None:
    with pytest.raises(TypeError, match="thread_count"):
        ThreadPool(count)
