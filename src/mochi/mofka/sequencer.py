"""Producers' sequences: how a partition takes each batch once, however often it is sent. No I/O.

For each identity the batches are numbered from 0. The next number is new. One of the last `REMEMBERED_BATCHES` is a
repetition, and gets the answer that the first copy got, or will get. Anything else is an error, and not a guess. An
identity with a batch that could not be stored is forgotten, so that no later batch of it is stored behind a gap. The
reason is remembered of the last `MAX_FAILED` of them, and told to their later batches, until one begins anew. A
batch is remembered until it is stored, and so no more than `REMEMBERED_BATCHES` of an identity are on their way.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from mochi.margo.errors import Fault
from mochi.mofka.chunks import MAX_PRODUCERS, REMEMBERED_BATCHES, Remembered

MAX_FAILED = 1024
"""Identities with a batch that could not be stored, of which the reason is remembered."""

Answer = Callable[[int | BaseException], None]
"""Told the first id of a batch, or why it was not stored."""


class _Batch:
    """A batch that was taken: the answers that wait for it, then its first id."""

    __slots__ = ("result",)

    def __init__(self, result: int | list[Answer]) -> None:
        self.result = result


class _Producer:
    __slots__ = ("batches", "next")

    def __init__(self, following: int, first_ids: Iterable[int]) -> None:
        self.next = following
        self.batches = deque(map(_Batch, first_ids), maxlen=REMEMBERED_BATCHES)


class Sequencer:
    """Decides for each arriving batch whether it is new. Belongs to one thread.

    Parameters
    ----------
    remembered : iterable of Remembered
        Producers with batches that were stored before, the one quiet for longest first.
    """

    def __init__(self, remembered: Iterable[Remembered] = ()) -> None:
        self._producers = OrderedDict(
            (identity, _Producer(following, first_ids)) for identity, following, first_ids in remembered
        )
        self._failed: OrderedDict[bytes, tuple[str, str]] = OrderedDict()

    def admit(self, identity: bytes, sequence: int, answer: Answer) -> Answer | None:
        """Take note of a batch.

        Parameters
        ----------
        answer : callable
            Called once, perhaps at once, with the outcome for this copy of the batch.

        Returns
        -------
        callable or None
            To be told the outcome of storing the batch, if it is new; None if it is a repetition.

        Raises
        ------
        Fault
            The code of the fault for which an earlier batch was not stored (``internal`` if it was no fault).
            ``identity_expired``: the identity is not known, or the batch is too old to be remembered.
            ``sequence_gap``: batches before this one have not arrived.
            ``too_many_batches``: as many as can be remembered are on their way; nothing was taken note of.
        """
        producer = self._producers.get(identity)
        if producer is None:
            if sequence:
                if identity in self._failed:
                    code, reason = self._failed[identity]
                    raise Fault(code, f"batch {sequence} follows a batch that could not be stored: {reason}")
                raise Fault(
                    "identity_expired",
                    f"batch {sequence} of a producer that this partition does not know (any more)",
                )
            self._failed.pop(identity, None)
            producer = self._producers[identity] = _Producer(0, ())
            if len(self._producers) > MAX_PRODUCERS:
                self._producers.popitem(last=False)
        self._producers.move_to_end(identity)
        batches = producer.batches
        age = producer.next - sequence
        if age < 0:
            raise Fault("sequence_gap", f"batch {sequence} came, and batch {producer.next} is next")
        if age > len(batches):
            raise Fault(
                "identity_expired", f"batch {sequence} is older than the {REMEMBERED_BATCHES} remembered"
            )
        if age:
            result = batches[-age].result
            if isinstance(result, int):
                answer(result)
            else:
                result.append(answer)
            return None
        if len(batches) == REMEMBERED_BATCHES and not isinstance(batches[0].result, int):
            raise Fault(
                "too_many_batches",
                f"batch {sequence} came while {REMEMBERED_BATCHES} before it are not stored yet; "
                f"at most so many may be on their way",
            )
        batch = _Batch([answer])
        producer.next += 1
        batches.append(batch)
        return lambda outcome: self._settle(identity, producer, batch, outcome)

    def _settle(
        self, identity: bytes, producer: _Producer, batch: _Batch, outcome: int | BaseException
    ) -> None:
        waiting = batch.result
        assert not isinstance(waiting, int)
        if isinstance(outcome, int):
            batch.result = outcome
        elif self._producers.get(identity) is producer:
            del self._producers[identity]  # what it has on its way must not be stored behind a gap
            code = outcome.code if isinstance(outcome, Fault) else "internal"
            self._failed[identity] = code, str(outcome)
            if len(self._failed) > MAX_FAILED:
                self._failed.popitem(last=False)
        for answer in waiting:
            answer(outcome)
