"""Files through io_urings: what is written is where it belongs, and nothing hangs, leaks, or is shared with a child."""

import errno
import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mochi.abt_io.calls import SystemCalls, open_calls
from mochi.abt_io.config import LIBURING_FLAGS, AbtIoConfig
from mochi.abt_io.threads import IoThreads
from mochi.disk import File, PosixFile, PosixFiles
from tests.abt_io.uring_here import kernel_has, needs_uring

pytestmark = needs_uring

T = TypeVar("T")

SECONDS = 20
ASYNC = "IOSQE_ASYNC"
SINGLE = "IORING_SETUP_SINGLE_ISSUER"
DEFER = "IORING_SETUP_DEFER_TASKRUN"
SQPOLL = "IORING_SETUP_SQPOLL"


class Files(PosixFiles):
    """Files on io_urings, and how their bytes move."""

    def __init__(self, config: AbtIoConfig) -> None:
        self.calls = open_calls("io", config)
        super().__init__(self.calls)

    def on(self, path: str, fd: int) -> File:
        return PosixFile(path, fd, self.calls)


def files_on(rings: int, *flags: str) -> Files:
    return Files(AbtIoConfig(num_urings=rings, liburing_flags=list(flags)))


def content(file: File, length: int, offset: int = 0) -> bytes:
    target = bytearray(length)
    file.read(memoryview(target), offset)
    return bytes(target)


def until_in_flight(files: Files, requests: int) -> None:
    (ring,) = files.calls._rings  # type: ignore[attr-defined]
    while len(ring._in_flight) < requests:
        time.sleep(0.001)


@pytest.fixture
def threads() -> Iterator[IoThreads]:
    threads = IoThreads("test-io")
    yield threads
    threads.close()


@pytest.fixture(params=[(), (ASYNC,), (SINGLE,)], ids=lambda flags: "+".join(flags) or "plain")
def files(request: pytest.FixtureRequest) -> Iterator[Files]:
    if any(not kernel_has([flag]) for flag in request.param if flag != ASYNC):
        pytest.skip(f"this kernel has no {request.param}")
    files = files_on(1, *request.param)
    yield files
    files.calls.close()


@pytest.fixture
def beside(threads: IoThreads) -> Callable[[Callable[[], T]], T]:
    """Runs a call where a server does: in a thread that is not the main one."""
    return lambda function: threads.submit(function).result(SECONDS)


def test_what_is_written_is_at_its_offset_and_nothing_beyond(
    files: Files, beside: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> None:
    file = files.open(str(tmp_path / "a"), writable=True)
    beside(lambda: file.write([b"one", bytearray(b"two"), b"", memoryview(b"--three")[2:]], 4))
    beside(file.sync)
    assert (tmp_path / "a").read_bytes() == b"\0\0\0\0onetwothree"
    assert beside(lambda: content(file, 3, 7)) == b"two"
    file.close()


def test_what_is_in_the_page_cache_and_what_is_not_are_read_alike(
    files: Files, beside: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> None:
    expected = os.urandom(1 << 20)
    file = files.open(str(tmp_path / "a"), writable=True)
    beside(lambda: file.write([expected], 0))
    assert beside(lambda: content(file, len(expected))) == expected
    beside(file.sync)
    os.posix_fadvise(file.fd, 0, len(expected) // 2, os.POSIX_FADV_DONTNEED)
    assert beside(lambda: content(file, len(expected) - 5, 5)) == expected[5:]
    file.close()


def test_more_buffers_than_one_request_takes_are_all_written(
    files: Files, beside: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> None:
    buffers = [b"%06d" % number for number in range(os.sysconf("SC_IOV_MAX") * 2 + 3)]
    file = files.open(str(tmp_path / "a"), writable=True)
    beside(lambda: file.write(buffers, 0))
    assert (tmp_path / "a").read_bytes() == b"".join(buffers)
    file.close()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 9), st.integers(0, 5))
def test_short_reads_and_writes_are_continued(
    threads: IoThreads, tmp_path: Path, buffers: list[bytes], most: int, offset: int
) -> None:
    files = files_on(1)
    write, read = files.calls.write, files.calls.read

    def short_write(fd: int, views: Sequence[memoryview], position: int) -> int:
        return write(fd, [memoryview(b"".join(views)[:most])], position)

    def store() -> bytes:
        file = files.open(str(tmp_path / "a"), writable=True)
        file.truncate(0)
        file.write(buffers, offset)
        found = content(file, len(expected), offset)
        file.close()
        return found

    expected = b"".join(buffers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.calls, "write", short_write)
        patch.setattr(files.calls, "read", lambda fd, target, at: read(fd, target[:most], at))
        assert threads.submit(store).result(SECONDS) == expected
    assert (tmp_path / "a").read_bytes()[offset:] == expected
    files.calls.close()


def test_errors_of_the_kernel_come_with_the_file_s_path(
    files: Files, beside: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    short, full = files.open(str(tmp_path / "a"), writable=False), files.open("/dev/full", writable=True)
    cases: list[tuple[Callable[[], object], int, str]] = [
        (lambda: full.write([b"x"], 0), errno.ENOSPC, "/dev/full"),
        (lambda: short.write([b"x"], 0), errno.EBADF, short.path),
        (lambda: content(short, 6, 2), errno.EIO, short.path),
        (full.sync, errno.EINVAL, "/dev/full"),
        (lambda: files.sync_all([short, full]), errno.EINVAL, "/dev/full"),
    ]
    for call, number, path in cases:
        with pytest.raises(
            OSError, match=os.strerror(number) if number != errno.EIO else "3 bytes too early"
        ) as e:
            beside(call)
        assert (e.value.errno, e.value.filename) == (number, path)
    short.close()
    full.close()


def test_syncs_of_several_files_go_in_with_one_submission(
    beside: Callable[[Callable[[], Any]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import liburing

    submitted: list[int] = []
    submit = liburing.io_uring_submit
    monkeypatch.setattr(
        liburing, "io_uring_submit", lambda ring: submitted.append(submit(ring)) or submitted[-1]
    )
    files = files_on(1, ASYNC)
    several = [files.open(str(tmp_path / str(n)), writable=True) for n in range(100)]
    beside(lambda: files.sync_all(several[:4]))
    assert submitted == [4]
    beside(lambda: files.sync_all([]))
    assert submitted == [4]
    beside(lambda: files.sync_all(several))
    assert sum(submitted) == 104
    for file in several:
        file.close()
    files.calls.close()


COMBINATIONS = [
    [],
    [ASYNC],
    [SQPOLL],
    ["IORING_SETUP_COOP_TASKRUN"],
    [SINGLE],
    [SINGLE, DEFER],
    list(LIBURING_FLAGS),
]


@pytest.mark.parametrize("flags", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("rings", [1, 3])
def test_many_threads_read_what_they_wrote(
    threads: IoThreads, tmp_path: Path, rings: int, flags: list[str]
) -> None:
    files = files_on(rings, *flags)
    assert files.calls.rings == rings  # type: ignore[attr-defined]
    pattern = os.urandom(1 << 18)

    def work(number: int) -> bool:
        chance = random.Random(number)
        file = files.open(str(tmp_path / str(number)), writable=True)
        written = bytearray()
        for step in range(25):
            size = chance.choice([10, 5000, 65536, 150000])
            start = chance.randrange(len(pattern) - size)
            piece = memoryview(pattern)[start : start + size]
            file.write([piece[: size // 2], b"-", piece[size // 2 :]], len(written))
            written += b"".join([piece[: size // 2], b"-", piece[size // 2 :]])
            if step % 8 == 0:
                file.sync()
            assert content(file, size, len(written) - size) == written[len(written) - size :]
        file.close()
        return (tmp_path / str(number)).read_bytes() == written

    futures = [threads.submit(lambda n=n: work(n)) for n in range(8)]
    assert [future.result(SECONDS) for future in futures] == [True] * 8
    files.calls.close()


@pytest.mark.parametrize("flags", [[DEFER], [SQPOLL, "IORING_SETUP_COOP_TASKRUN"]], ids="+".join)
def test_flags_that_the_kernel_refuses_together_are_left_out_with_a_warning(
    flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    files = files_on(2, ASYNC, *flags)
    (record,) = caplog.records
    assert f"refuses {', '.join(flags)} of config.liburing_flags (Invalid argument)" in record.message
    assert files.calls.rings == 2  # type: ignore[attr-defined]
    files.calls.close()


def test_requests_carry_the_flag_for_requests(
    beside: Callable[[Callable[[], Any]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import liburing

    entries: list[Any] = []
    get = liburing.io_uring_get_sqe
    monkeypatch.setattr(liburing, "io_uring_get_sqe", lambda ring: entries.append(get(ring)) or entries[-1])
    for flags, expected in (([], 0), ([ASYNC], liburing.IOSQE_ASYNC)):
        files = files_on(1, *flags)
        file = files.open(str(tmp_path / "a"), writable=True)
        beside(lambda file=file: file.write([b"x"], 0))
        assert [entry.flags for entry in entries] == [expected]
        entries.clear()
        file.close()
        files.calls.close()


def test_a_request_that_waits_leaves_others_running(files: Files, threads: IoThreads, tmp_path: Path) -> None:
    source, sink = os.pipe()
    pipe, file = files.on("pipe", source), files.open(str(tmp_path / "a"), writable=True)
    blocked = threads.submit(lambda: content(pipe, 4))
    for number in range(20):
        threads.submit(lambda n=number: file.write([b"x"], n)).result(SECONDS)
    assert not blocked.done()
    os.write(sink, b"late")
    assert blocked.result(SECONDS) == b"late"
    os.close(sink)
    pipe.close()
    file.close()


def test_close_waits_for_a_request_under_way(files: Files, threads: IoThreads) -> None:
    source, sink = os.pipe()
    pipe = files.on("pipe", source)
    blocked = threads.submit(lambda: content(pipe, 4))
    until_in_flight(files, 1)
    closing = threading.Thread(target=files.calls.close)
    closing.start()
    assert not blocked.done()
    os.write(sink, b"late")
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert blocked.result(SECONDS) == b"late"
    os.close(sink)
    pipe.close()


def test_files_go_on_by_plain_calls_once_the_rings_are_closed(
    files: Files, beside: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> None:
    file = files.open(str(tmp_path / "a"), writable=True)
    before = len(os.listdir("/proc/self/fd"))
    files.calls.close()
    files.calls.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2
    beside(lambda: file.write([b"x"], 0))
    beside(file.sync)
    assert beside(lambda: content(file, 1)) == b"x"
    file.close()


def test_a_request_outlives_the_thread_that_submitted_it_for_another(tmp_path: Path) -> None:
    files = files_on(1)
    first_source, first_sink = os.pipe()
    second_source, second_sink = os.pipe()
    found: dict[str, bytes] = {}

    def read(name: str, source: int) -> None:
        found[name] = content(files.on(name, source), 4)

    first = threading.Thread(target=read, args=("first", first_source))
    first.start()
    until_in_flight(files, 1)
    second = threading.Thread(target=read, args=("second", second_source))
    second.start()
    until_in_flight(files, 2)
    os.write(first_sink, b"1111")
    first.join(SECONDS)
    assert second.is_alive()
    os.write(second_sink, b"2222")
    second.join(SECONDS)
    assert found == {"first": b"1111", "second": b"2222"}
    files.calls.close()
    for fd in (first_source, first_sink, second_source, second_sink):
        os.close(fd)


def test_buffers_are_let_go_of(
    files: Files, beside: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> None:
    class Owner(bytearray):
        pass

    def write_and_read() -> "weakref.ref[Owner]":
        buffer = Owner(100000)
        file.write([memoryview(buffer), memoryview(buffer)[5:9]], 0)
        file.read(memoryview(buffer), 0)
        buffer.append(1)  # which a bytearray that is exported refuses
        return weakref.ref(buffer)

    file = files.open(str(tmp_path / "a"), writable=True)
    gone = beside(write_and_read)
    gc.collect()
    assert gone() is None
    file.close()


def test_the_main_thread_makes_plain_calls(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: list[int] = []
    pwritev = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, *rest: plain.append(fd) or pwritev(fd, *rest))
    file = files.open(str(tmp_path / "a"), writable=True)
    file.write([b"x"], 0)
    assert plain == [file.fd]
    file.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_lets_go_of_the_rings_and_has_its_own(threads: IoThreads, tmp_path: Path) -> None:
    from mochi.abt_io.instance import Instance
    from mochi.margo.config import MargoConfig
    from mochi.margo.pools import Pools

    pools = Pools(MargoConfig.parse({}), lambda work: pytest.fail("storage ran on the event loop"))
    instance = Instance("forked", pools["__primary__"], AbtIoConfig(num_urings=1, liburing_flags=[ASYNC]))
    source, sink = os.pipe()
    file = instance.files.open(str(tmp_path / "a"), writable=True)
    pipe = instance.files.open(f"/proc/self/fd/{source}", writable=False)
    blocked = instance.run(lambda: content(pipe, 4))
    instance.run(lambda: file.write([b"parent"], 0)).result(SECONDS)
    rings = [os.readlink(f"/proc/self/fd/{fd}") for fd in _open_fds()].count("anon_inode:[io_uring]")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in _open_fds()]
            instance.run(lambda: file.write([b"child"], 6)).result(SECONDS)
            instance.close()
            status = 0 if links.count("anon_inode:[io_uring]") == rings == 1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not blocked.done()
    os.write(sink, b"late")
    assert blocked.result(SECONDS) == b"late"
    assert instance.run(lambda: content(file, 11)).result(SECONDS) == b"parentchild"
    instance.close()
    pools.close()
    for fd in (source, sink, file.fd):
        os.close(fd)


def _open_fds() -> list[int]:
    return [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


def test_instances_are_independent_of_each_other(
    beside: Callable[[Callable[[], Any]], Any], tmp_path: Path
) -> None:
    one, other, plain = files_on(1), files_on(2, ASYNC), files_on(0)
    assert isinstance(plain.calls, SystemCalls)
    written = [
        files.open(str(tmp_path / str(n)), writable=True) for n, files in enumerate((one, other, plain))
    ]
    for file in written:
        beside(lambda file=file: file.write([b"before"], 0))
    other.calls.close()
    for file in written:
        beside(lambda file=file: file.write([b"after"], 6))
        assert Path(file.path).read_bytes() == b"beforeafter"
        file.close()
    one.calls.close()


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [(OSError(errno.ENXIO, "gone"), "gone"), (RuntimeError("bad"), "the io_uring failed: RuntimeError")],
)
def test_a_ring_that_breaks_fails_its_requests_and_no_later_ones(
    files: Files,
    beside: Callable[[Callable[[], Any]], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
    expected: str,
) -> None:
    import liburing

    several = [files.open(str(tmp_path / name), writable=True) for name in "ab"]

    def broken(ring: object) -> int:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(liburing, "io_uring_submit", broken)
        with pytest.raises(OSError, match=expected) as caught:
            beside(lambda: several[0].write([b"x"], 0))
        assert caught.value.filename == several[0].path
    for file in several:
        beside(lambda file=file: file.write([b"later"], 0))
        beside(file.sync)
        file.close()
        assert Path(file.path).read_bytes() == b"later"


def test_an_interrupted_or_busy_submission_is_made_again(
    beside: Callable[[Callable[[], Any]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import liburing

    refusals = [errno.EINTR, errno.EAGAIN, errno.EBUSY]
    submit = liburing.io_uring_submit

    def unwilling(ring: object) -> int:
        if refusals:
            number = refusals.pop()
            raise OSError(number, os.strerror(number))
        return int(submit(ring))

    monkeypatch.setattr(liburing, "io_uring_submit", unwilling)
    files = files_on(1)
    file = files.open(str(tmp_path / "a"), writable=True)
    beside(lambda: file.write([b"x"], 0))
    assert (tmp_path / "a").read_bytes() == b"x"
    file.close()
    files.calls.close()


def test_a_refusal_of_the_kernel_is_one_warning_and_threads_do_the_work(tmp_path: Path) -> None:
    script = """if True:
        import logging, os, resource, sys
        from mochi.abt_io.calls import SystemCalls, open_calls
        from mochi.abt_io.config import AbtIoConfig
        import mochi.abt_io.uring
        logging.basicConfig(format="%(message)s")
        before = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + 10, before + 10))
        calls = open_calls("io", AbtIoConfig(num_urings=100))
        assert isinstance(calls, SystemCalls) and type(calls) is SystemCalls
        assert len(os.listdir("/proc/self/fd")) == before
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert line.startswith("abt_io provider 'io': config.num_urings is 100, but there is no io_uring here: ")
    assert "the kernel refuses it (Too many open files; see the limit of open files" in line
    assert line.endswith("Threads do the work instead")


@pytest.mark.long
def test_the_benchmark_measures_a_row(tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    arguments = ["--only", "checkpoint*/uring+async", "--repetitions", "1", "--output", str(output)]
    command = [sys.executable, "-m", "benchmarks.uring", "--directory", str(tmp_path), *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(output.read_bytes())["rows"].values()
    assert row["ratio"]["median"] > 0
    assert list(tmp_path.iterdir()) == [output], "something is left behind"
