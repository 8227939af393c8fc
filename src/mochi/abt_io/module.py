"""What makes abt_io a component of a configuration file (``libabt-io-bedrock-module.so``)."""

from typing import Any

from mochi.abt_io import config as abt_io_config
from mochi.abt_io.instance import Instance
from mochi.margo.engine import Engine


class AbtIoModule:
    """Module of the provider type ``abt_io``, which has no RPC: it serves providers of its own server."""

    type = "abt_io"
    by_umask = False

    def dependencies(self, config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
        """Return name -> (kind, required) of what a provider depends on."""
        return {"pool": ("pool", True)}

    def create(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        tags: list[str],
        dependencies: dict[str, Any],
    ) -> Instance:
        """Start a provider.

        Raises
        ------
        ConfigError
            `config` is not an abt_io configuration.
        """
        return Instance(name, dependencies["pool"], abt_io_config.parse(config), by_umask=self.by_umask)
