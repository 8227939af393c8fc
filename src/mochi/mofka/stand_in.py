"""What stands for a partition that could not be opened when its server started: it is shown, and says why."""

from collections.abc import Callable
from typing import Any, NoReturn

from mochi.margo.engine import Engine
from mochi.margo.errors import Fault
from mochi.mofka.protocol import (
    ACKNOWLEDGE,
    GRANT,
    LEND,
    REQUEST_DATA,
    SEND_BATCH,
    SUBSCRIBE,
    UNSUBSCRIBE,
)

RPCS = (SEND_BATCH, LEND, SUBSCRIBE, GRANT, UNSUBSCRIBE, REQUEST_DATA, ACKNOWLEDGE)


class StandIn:
    """Refuses all that a partition is asked.

    Parameters
    ----------
    section : dict
        The ``partition`` section, as it was given.
    reason : Fault
        Why the partition could not be opened; all who ask for it are told.
    remove : callable or None
        Removes what is stored, though it cannot be opened; returns paths of what stays. None where that cannot be.
    """

    def __init__(
        self,
        engine: Engine,
        provider_id: int,
        *,
        topic: str,
        kind: str,
        uuid: str,
        section: dict[str, Any],
        reason: Fault,
        remove: Callable[[], list[str]] | None,
    ) -> None:
        self.topic = topic
        self.kind = kind
        self.uuid = uuid
        self.reason = reason
        self._engine = engine
        self.provider_id = provider_id
        self._section = section
        self._remove_stored = remove
        for name in RPCS:
            engine.register(name, provider_id, self._refuse, allocate=self._refuse)

    def _refuse(self, _: object) -> NoReturn:
        raise self.reason

    @property
    def config(self) -> dict[str, Any]:
        """The provider's configuration; ``failed`` says why it takes no events."""
        return {
            "partition": self._section,
            "topic": self.topic,
            "type": self.kind,
            "uuid": self.uuid,
            "failed": str(self.reason),
        }

    def remove(self, unused_only: bool) -> list[str]:
        """Remove what is stored; nothing if it is to stay where there may be events. May block.

        Raises
        ------
        Fault
            What is stored can be removed only by who can open it.
        MargoError, StorageError
            It cannot be removed now.
        """
        if unused_only:
            return []
        if self._remove_stored is None:
            raise self.reason
        self.reason = Fault("deleted", f"topic {self.topic!r} was deleted")
        return self._remove_stored()

    def close(self) -> None:
        """Serve no more; idempotent."""
        self._engine.undefine(self.provider_id)
