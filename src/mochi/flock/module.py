"""What makes flock a component of a configuration file (``libflock-bedrock-module.so``)."""

from typing import Any

from mochi.flock import config as flock_config
from mochi.flock.bootstrap import Place
from mochi.flock.provider import FlockProvider
from mochi.margo.engine import Engine


class FlockModule:
    """Module of the provider type ``flock``."""

    type = "flock"
    guards = True

    def __init__(self) -> None:
        self._place: Place | None = None

    def meet(self, rank: int, size: int, secret: bytes | None) -> None:
        """Take note of the processes that this one was started with; see `mochi.bedrock.modules.Meets`."""
        self._place = Place(rank, size, secret)

    def dependencies(self, config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
        """Return name -> (kind, required) of what a provider depends on."""
        return {"pool": ("pool", False)}

    def create(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        tags: list[str],
        dependencies: dict[str, Any],
    ) -> FlockProvider:
        """Start a provider.

        Raises
        ------
        FlockError
            `config` is not a flock configuration, or leads to no group.
        """
        parsed = flock_config.parse(config)
        return FlockProvider(engine, provider_id, parsed, dependencies.get("pool"), self._place)
