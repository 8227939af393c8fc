"""What makes flock a component of a configuration file (``libflock-bedrock-module.so``)."""

from typing import Any

from mochi.flock import config as flock_config
from mochi.flock.provider import FlockProvider
from mochi.margo.engine import Engine


class FlockModule:
    """Module of the provider type ``flock``."""

    type = "flock"

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
        ConfigError
            `config` is not a flock configuration, or asks for what is not built in.
        """
        return FlockProvider(engine, provider_id, flock_config.parse(config), dependencies.get("pool"))
