"""Rounds of processes that start together: what each hears, and how one that fails ends them for all."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mochi.bedrock import mpi
from mochi.bedrock.errors import BedrockError
from mochi.bedrock.peers import Alone, PeerError, Peers, Returning, Word
from mochi.bedrock.supervisor import Rounds, supervise


class TalkingPeers(Peers):
    """Peers in threads of one process, whose rounds are those of a supervisor."""

    lock = threading.Lock()

    def __init__(self, rank: int, rounds: Rounds, boxes: "list[Any]") -> None:
        super().__init__(rank, len(boxes), range(len(boxes)))
        self._rounds = rounds
        self._boxes = boxes

    def _deliver(self, answers: list[tuple[int, bytes]]) -> None:
        for rank, answer in answers:
            self._boxes[rank].put(answer)

    def _exchange(self, word: bytes) -> list[bytes]:
        with self.lock:
            self._deliver(self._rounds.say(self.rank, word))
        return msgspec.msgpack.decode(self._boxes[self.rank].get(timeout=10), type=list[bytes])

    def _leave(self) -> None:
        with self.lock:
            self._deliver(self._rounds.leave(self.rank, "left"))


def in_threads(size: int, behave: Callable[[Peers], Any]) -> list[Any]:
    """Let `size` peers do something each in a thread; return what comes of it, by rank."""
    from queue import SimpleQueue

    rounds = Rounds(size)
    boxes: list[Any] = [SimpleQueue() for _ in range(size)]

    def run(rank: int) -> Any:
        me = TalkingPeers(rank, rounds, boxes)
        try:
            return behave(me)
        except PeerError as error:
            return error
        finally:
            me.close()

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(run, range(size)))


def test_all_hear_what_each_has_said_in_every_round() -> None:
    heard = in_threads(4, lambda me: [me.gather([me.rank, number]) for number in range(3)])
    assert heard == [[{rank: [rank, number] for rank in range(4)} for number in range(3)]] * 4


@pytest.mark.parametrize("good_rounds", [0, 2])
def test_one_that_fails_ends_the_start_of_all(good_rounds: int) -> None:
    def behave(me: Peers) -> None:
        for _ in range(good_rounds):
            me.gather(None)
        if me.rank == 2:
            me.fail("no such pool")
        else:
            me.gather(None)

    *others, culprit = in_threads(3, behave)
    assert culprit is None
    assert [(error.rank, error.problem) for error in others] == [(2, "no such pool")] * 2
    assert str(others[0]) == "rank 2 did not start: no such pool"


def test_one_that_goes_without_a_word_ends_the_start_of_all() -> None:
    first, _, third = in_threads(3, lambda me: None if me.rank == 1 else me.gather(None))
    assert [first.rank, third.rank] == [1, 1]


def test_after_the_end_nobody_hears_of_a_failure() -> None:
    def behave(me: Peers) -> Any:
        said = me.gather(me.rank)
        me.close()
        me.fail("too late")
        return said

    assert in_threads(2, behave) == [{0: 0, 1: 1}] * 2


@given(st.permutations([(rank, turn) for rank in range(3) for turn in range(2)]), st.integers(0, 2))
def test_nobody_waits_for_one_that_is_gone(order: list[tuple[int, int]], gone: int) -> None:
    rounds = Rounds(3)
    waiting: set[int] = set()
    rounds.leave(gone, "killed")
    for rank, _ in order:
        if rank == gone or rank in waiting:
            continue
        waiting.add(rank)
        for told, answer in rounds.say(rank, msgspec.msgpack.encode(Word(1))):
            waiting.remove(told)
            words = [
                msgspec.msgpack.decode(w, type=Word) for w in msgspec.msgpack.decode(answer, type=list[bytes])
            ]
            assert [word.problem for word in words].count("killed") == 1
    assert len(waiting) < 2


def test_a_process_alone_hears_itself_under_its_rank() -> None:
    assert Alone().gather("x") == {0: "x"}
    assert Returning(2, 4).gather("x") == {2: "x"}


def test_children_exchange_words_and_their_failures_are_reported(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def serve(me: Peers) -> int:
        said = me.gather(me.rank * 10)
        os.write(1, f"{me.rank} {said[2]}\n".encode())
        if me.rank == 1:
            me.fail("broken")
            return 3
        try:
            me.gather(None)
        except PeerError as error:
            os.write(1, f"{error}\n".encode())
        return 0

    assert not supervise(3, serve)
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == ["0 20", "1 20", "2 20", *["rank 1 did not start: broken"] * 2]
    assert caplog.text == ""


def test_a_child_that_dies_after_the_start_is_told_of_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def serve(me: Peers) -> int:
        me.gather(None)
        me.close()
        if me.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5)  # longer than the other lives
        return 0

    assert not supervise(2, serve)
    assert [record.message for record in caplog.records] == [
        "the server of rank 1 was killed by SIGKILL; the others go on"
    ]


def test_a_child_that_is_stuck_is_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mochi.bedrock.supervisor.PATIENCE", 0.3)

    def serve(me: Peers) -> int:
        if me.rank == 1:
            time.sleep(1.0)
            return 0
        with pytest.raises(PeerError, match=r"not all of 2 servers were there within 0 s"):
            me.gather(None)
        return 0

    assert supervise(2, serve)


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
        ({"SLURM_STEP_NUM_TASKS": "4"}, ("srun", 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, ("mpirun", 2)),
        ({"PMI_SIZE": "3"}, ("mpirun", 3)),
    ],
)
def test_a_launcher_is_known_by_its_environment(
    environment: dict[str, str], found: tuple[str, int] | None
) -> None:
    assert mpi.launched(environment) == found


@pytest.mark.parametrize(
    "text", [b'{"bootstrap": "mpi"}', b"$MPI_COMM_WORLD.rank == 0", b"bootstrap = ['join', 'mpi']"]
)
def test_without_mpi4py_a_configuration_that_needs_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BedrockError, match=r"mpirun has started 2 processes.*pip install 'mofka\[mpi\]'"):
        mpi.meet("mpirun", 2, lambda: text)
    assert mpi.meet("mpirun", 2, lambda: b'{"bootstrap": "self"}') is None
