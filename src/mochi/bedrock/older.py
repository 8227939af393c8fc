"""Sections of older configurations: groups of SSG become providers of flock, what has no place any more is named. Pure.

A group of SSG is a group of servers as flock's is. It gets its group file in flock's form, which the programs of today
read; those that read SSG's own form do not speak to this server either.
"""

import logging
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from mochi.margo.config import convert
from mochi.margo.errors import ConfigError

__all__ = ["INSTEAD", "groups"]

INSTEAD = {
    "abt_io": "list each as a provider of type abt_io",
    "clients": "dependencies of providers need none",
    "mona": "nothing needs it",
}
"""Sections of old, and what to do about them."""

_BOOTSTRAPS = {"init": "self", "mpi": "mpi", "join": "join"}

log = logging.getLogger(__name__)


class _Swim(Struct, frozen=True, forbid_unknown_fields=True):
    period_length_ms: Annotated[int, Meta(ge=0)] = 0
    suspect_timeout_periods: int = -1
    subgroup_member_count: int = -1
    disabled: bool = False

    @property
    def group(self) -> dict[str, Any]:
        """The group of flock that watches its members so; what is left to SSG is left to flock."""
        if self.disabled:
            return {"type": "static"}
        config: dict[str, Any] = {}
        period = self.period_length_ms or 1000
        if self.period_length_ms:
            config["protocol_period_ms"] = period
        if self.suspect_timeout_periods > 0:
            config["suspicion_timeout_ms"] = period * self.suspect_timeout_periods
        if self.subgroup_member_count >= 0:
            config["ping_req_members"] = self.subgroup_member_count
        return {"type": "swim", "config": config} if config else {"type": "swim"}


class _Group(Struct, frozen=True, forbid_unknown_fields=True):
    """A group of SSG, as it was configured."""

    name: str
    bootstrap: Literal["init", "mpi", "pmix", "join"]
    group_file: str = ""
    pool: str | int | UnsetType = UNSET
    credential: int = -1
    swim: _Swim = _Swim()


def groups(section: Any) -> list[dict[str, Any]]:
    """Return the providers of flock that an ``ssg`` section stands for, with one warning for each.

    Parameters
    ----------
    section : Any
        Decoded JSON: one group, or an array of them.

    Raises
    ------
    ConfigError
        A group is wrong, or bootstrapped by PMIx.
    """
    entries = section if isinstance(section, list) else [section] * bool(section)
    providers = []
    for index, entry in enumerate(entries):
        where = f"ssg[{index}]"
        group = convert(entry, _Group, where)
        if group.bootstrap == "pmix":
            raise ConfigError(f"{where}.bootstrap", '"pmix" is not built in; use "mpi", or "init" and "join"')
        provider: dict[str, Any] = {
            "name": group.name,
            "type": "flock",
            "config": {"bootstrap": _BOOTSTRAPS[group.bootstrap], "group": group.swim.group},
        }
        if group.group_file:
            provider["config"]["file"] = group.group_file
        if group.pool is not UNSET:
            provider["dependencies"] = {"pool": group.pool}
        log.warning(
            "%s: obsolete section, taken for the provider %s", where, msgspec.json.encode(provider).decode()
        )
        providers.append(provider)
    return providers
