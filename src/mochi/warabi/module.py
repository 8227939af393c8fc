"""What Bedrock loads for the library ``libwarabi-bedrock-module.so``."""

from typing import Any

from mochi.abt_io.instance import Instance
from mochi.margo.engine import Engine
from mochi.warabi.config import open_target
from mochi.warabi.provider import WarabiProvider

__all__ = ["WarabiModule"]


class WarabiModule:
    """Makes providers of type ``warabi``."""

    type = "warabi"
    by_umask = False

    def dependencies(self, config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
        """Return what a provider may depend on: the pool that its handlers run in."""
        return {"pool": ("pool", False)}

    def create(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        tags: list[str],
        dependencies: dict[str, Any],
    ) -> WarabiProvider:
        """Open the target and serve it.

        Raises
        ------
        ConfigError
            The configuration is wrong, or the target does not open.
        """
        pool = dependencies.get("pool")
        opened = open_target(
            config,
            lambda settings: Instance(name, pool or engine.default_pool, settings, by_umask=self.by_umask),
        )
        return WarabiProvider(engine, provider_id, opened, pool)
