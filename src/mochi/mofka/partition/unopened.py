"""What stands for a partition that could not be opened when its server started: it is shown, and says why."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from mochi.margo.errors import Fault
from mochi.margo.wire import Buffer
from mochi.mofka.chunks import Batch, Pieces, Remembered
from mochi.mofka.partition.contract import Slice


class UnopenedPartition:
    """A partition without events, which takes none.

    Parameters
    ----------
    config : dict
        The ``partition`` section, as it was given.
    error : Fault
        Why it could not be opened.
    """

    first = 0
    count = 0
    epoch = 0
    lent_size = 0
    damaged: Sequence[str] = ()
    keeps_buffers = False

    def __init__(self, config: dict[str, Any], error: Fault) -> None:
        self.config = config
        self.error = error

    def remembered(self) -> Iterable[Remembered]:
        """Know no producers."""
        return ()

    def cursor(self, consumer: str) -> int:
        """Have no cursors."""
        return 0

    def acknowledge(self, consumer: str, next_id: int, done: Callable[[BaseException | None], None]) -> None:
        """Say why."""
        done(self.error)

    def receive(self, sizes: int, metadata: int, data: int) -> NoReturn:
        """Raise why."""
        raise self.error

    def append(self, batch: Batch, done: Callable[[int | BaseException], None]) -> None:
        """Say why."""
        done(self.error)

    def read(
        self,
        first: int,
        max_events: int,
        max_bytes: int,
        with_data: bool,
        done: Callable[[Slice | BaseException], None],
    ) -> None:
        """Say why."""
        done(self.error)

    def read_data(self, pieces: Pieces, done: Callable[[Sequence[Buffer] | BaseException], None]) -> None:
        """Say why."""
        done(self.error)

    def expires_in(self) -> None:
        """Have nothing that could expire."""

    def expire(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
