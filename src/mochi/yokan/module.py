"""What Bedrock loads for the library ``libyokan-bedrock-module.so``."""

from typing import Any

from mochi.margo.engine import Engine
from mochi.yokan.config import open_database
from mochi.yokan.provider import YokanProvider

__all__ = ["YokanModule"]


class YokanModule:
    """Makes providers of type ``yokan``."""

    type = "yokan"
    by_umask = False

    def dependencies(self, config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
        """Return what a provider may depend on: the pool that its verbs run in."""
        return {"pool": ("pool", False)}

    def create(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        tags: list[str],
        dependencies: dict[str, Any],
    ) -> YokanProvider:
        """Open the database and serve it.

        Raises
        ------
        ConfigError
            The configuration is wrong, or the database does not open.
        """
        database, expanded = open_database(config, by_umask=self.by_umask)
        return YokanProvider(engine, provider_id, database, expanded, dependencies.get("pool"))
