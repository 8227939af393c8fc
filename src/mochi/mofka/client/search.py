"""Looking for a partition: what `mochi.mofka.client.core.search_state` decides, carried out."""

import logging
import time
from collections.abc import Callable
from typing import Any

from mochi.margo.client import PATIENCE
from mochi.margo.errors import MargoError
from mochi.margo.link import Link
from mochi.mofka.client.core.search_state import Ask, Connect, GiveUp, Rest, SearchState
from mochi.mofka.client.refusals import PartitionInfo
from mochi.mofka.client.service import Service

log = logging.getLogger(__name__)


class Search:
    """Looks for one partition, from the first failure to the first success; belongs to one thread at a time.

    One that lasts longer than `PATIENCE` is told to the log, and again when it is over.

    Parameters
    ----------
    missed : callable, optional
        Is called whenever nobody was found; without it, those who wait look again whether they are done.
    """

    def __init__(self, service: Service, topic: str, missed: Callable[[], object] | None = None) -> None:
        self._service = service
        self._topic = topic
        self._missed = missed or service.client.notify
        now = time.monotonic()
        self._state = SearchState(now, min(now + service.timeout, service.ends_at), PATIENCE)

    @property
    def failures(self) -> int:
        """How often nobody was found."""
        return self._state.failures

    @property
    def reason(self) -> MargoError | None:
        """Why nobody was found last."""
        return self._state.reason

    @property
    def is_over(self) -> bool:
        """Whether the time-out of the service has passed since the search began."""
        return self._state.is_over(time.monotonic())

    @property
    def seconds_left(self) -> float:
        """Seconds until the search is over, a millisecond at least."""
        return self._state.seconds_left(time.monotonic())

    def connect(self, partition: PartitionInfo, cause: MargoError | None) -> tuple[PartitionInfo, Link]:
        """Return where the partition is, and a link to there; blocks until somebody answers.

        Parameters
        ----------
        cause : MargoError or None
            Why it is looked for. A connection that is lost or was never there is tried at once. A partition that is
            not there, and whatever failed before, is tried after a pause that grows.

        Raises
        ------
        MargoError
            Nobody answered within the service's time-out.
        DiasporaError
            The service does not know the partition any more.
        """
        service, state = self._service, self._state
        todo = state.look(partition, cause, time.monotonic())
        while True:
            action = todo.pop(0)
            match action:
                case Connect(partition, timeout):
                    try:
                        link = service.client.link(partition.address, timeout)
                    except MargoError as error:
                        todo = state.missed(error)
                    else:
                        state.found()
                        return partition, link
                case Ask(partition, error):
                    if service.is_closed:
                        raise error
                    self._missed()
                    found = service.locate(self._topic, partition)
                    todo = state.located(found, service.explained(error), time.monotonic())
                case Rest(seconds):
                    service.rest(seconds)
                    todo = state.rested(time.monotonic())
                case GiveUp(error):
                    raise error
                case _:
                    self._tell(action)

    def end(self, outcome: str) -> None:
        """Take note that the search is over: the partition has proved to be there, or was given up."""
        for action in self._state.ended(outcome, time.monotonic()):
            self._tell(action)

    def _tell(self, warning: Any) -> None:
        what = "looked for since %g s: %s" if warning.error else "%s after %.1f s"
        arguments = (warning.seconds, warning.error) if warning.error else (warning.outcome, warning.seconds)
        log.warning(f"topic %r, %s: {what}", self._topic, warning.partition, *arguments)
