"""Names of the oldest programs: ``Client(engine).connect("mofka.json")``, which gives a ``ServiceHandle``."""

import os
from typing import Any

from mochi.mofka.client.driver import MofkaDriver

ServiceHandle = MofkaDriver


class Client:
    """The entrance of the oldest programs.

    ``Client(group_file, ...)`` is a `MofkaDriver`; ``Client(engine)`` connects to services.

    Parameters
    ----------
    engine : pymargo Engine or margo id, optional
        Without effect.
    """

    def __new__(cls, *given: Any, mid: Any = None, **options: Any) -> Any:
        if options or (given and isinstance(given[0], str | os.PathLike)):
            return MofkaDriver(*given, **options)
        return super().__new__(cls)

    def __init__(self, engine: Any = None, *, mid: Any = None) -> None:
        self._engine = engine if mid is None else mid

    def connect(self, group_file: str | os.PathLike[str]) -> MofkaDriver:
        """Return a driver of the service of a group file, see `MofkaDriver`."""
        return MofkaDriver(group_file, self._engine)
