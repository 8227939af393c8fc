"""A component as a third party would write it, which shows what bedrock does with it.

Each thing that happens to a provider is appended to `EVENTS`. A provider fails in the call that its
``config.fail`` names.
"""

from typing import Any

import msgspec

from mochi.margo.engine import Engine
from mochi.margo.errors import ConfigError

EVENTS: list[tuple[str, str]] = []


class Ping(msgspec.Struct):
    """Arguments of the RPC."""


class Probe:
    """Answers ``probe_ping`` with its name."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        dependencies: dict[str, Any],
    ) -> None:
        self.name = name
        self.config = config
        self.dependencies = dependencies
        engine.define("probe_ping", provider_id, Ping, lambda _: name)
        self.step("create")

    def step(self, what: str) -> None:
        EVENTS.append((what, self.name))
        if self.config.get("fail") == what:
            raise RuntimeError(f"{what} failed\nas asked")
        if self.config.get("refuse") == what:
            raise ConfigError("config.refuse", f"found {what}; expected nothing")

    def ready(self, engine: Engine) -> None:
        self.step("ready")

    def close(self) -> None:
        self.step("close")


class ProbeModule:
    """Module of the type ``probe``."""

    type = "probe"

    def dependencies(self, config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
        if config.get("refuse") == "dependencies":
            raise ConfigError("config.refuse", "found dependencies; expected nothing")
        return {
            "pool": ("pool", False),
            "xstream": ("xstream", False),
            "peer": ("probe", bool(config.get("needs_peer"))),
            "peers": ("probe[]", False),
            "database": ("yokan", False),
        }

    def create(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        tags: list[str],
        dependencies: dict[str, Any],
    ) -> Probe:
        return Probe(engine, name, provider_id, config, dependencies)
