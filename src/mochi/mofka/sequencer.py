"""Producers' sequences: how a partition takes each batch once, however often it is sent. No I/O.

For each identity the batches are numbered from 0. The next number is new; one of the last `REMEMBERED_BATCHES` is a
repetition, and gets the answer that the first copy got, or will get; anything else is an error, and not a guess. An
identity with a batch that could not be stored is forgotten, so that no later batch of it is stored behind a gap.
"""

from collections import OrderedDict, deque
from collections.abc import Callable

from mochi.margo.errors import Fault
from mochi.mofka.protocol import REMEMBERED_BATCHES

Answer = Callable[[int | BaseException], None]
"""Told the first id of a batch, or why it was not stored."""

MAX_PRODUCERS = 4096
"""Identities remembered for each partition; the one that has been quiet for longest is forgotten first."""


class _Entry:
    """A batch that was taken: waiting answers, then the first id."""

    __slots__ = ("first", "waiting")

    def __init__(self, answer: Answer) -> None:
        self.first: int | None = None
        self.waiting = [answer]


class _Producer:
    __slots__ = ("entries", "next")

    def __init__(self) -> None:
        self.next = 0
        self.entries: deque[_Entry] = deque(maxlen=REMEMBERED_BATCHES)


class Sequencer:
    """Decides for each arriving batch whether it is new. Belongs to one thread."""

    def __init__(self) -> None:
        self._producers: OrderedDict[bytes, _Producer] = OrderedDict()

    def admit(self, identity: bytes, sequence: int, answer: Answer) -> Answer | None:
        """Take note of a batch.

        Parameters
        ----------
        answer : callable
            Called once, perhaps at once, when this is a repetition.

        Returns
        -------
        callable or None
            To be told the outcome of storing the batch, if it is new; None if it is a repetition.

        Raises
        ------
        Fault
            ``identity_expired``: the identity is not known, or the batch is too old to be remembered.
            ``sequence_gap``: batches before this one have not arrived.
        """
        producer = self._producers.get(identity)
        if producer is None:
            if sequence:
                raise Fault(
                    "identity_expired",
                    f"batch {sequence} of a producer that this partition does not know (any more)",
                )
            producer = self._producers[identity] = _Producer()
            while len(self._producers) > MAX_PRODUCERS:
                self._producers.popitem(last=False)
        self._producers.move_to_end(identity)
        if sequence == producer.next:
            producer.next += 1
            entry = _Entry(answer)
            producer.entries.append(entry)
            return lambda outcome: self._settle(identity, entry, outcome)
        age = producer.next - sequence
        if age < 0:
            raise Fault("sequence_gap", f"batch {sequence} came, and batch {producer.next} is next")
        if age > len(producer.entries):
            raise Fault("identity_expired", f"batch {sequence} is older than the {REMEMBERED_BATCHES} remembered")
        entry = producer.entries[-age]
        if entry.first is None:
            entry.waiting.append(answer)
        else:
            answer(entry.first)
        return None

    def _settle(self, identity: bytes, entry: _Entry, outcome: int | BaseException) -> None:
        if isinstance(outcome, BaseException):
            self._producers.pop(identity, None)  # what it has on its way must not be stored behind a gap
        else:
            entry.first = outcome
        waiting, entry.waiting = entry.waiting, []
        for answer in waiting:
            answer(outcome)
