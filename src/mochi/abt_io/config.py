"""Configuration of an abt_io provider: what may be written, and its expanded form, which loads again."""

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from diaspora_stream.console.hints import hint
from mochi.abt_io.errors import ConfigError
from mochi.margo import errors as margo
from mochi.margo.config import convert

VERSION: Final = "0.9.0"
"""Version of the original's abt-io whose configuration this is."""

TRACE_VARIABLE: Final = "ABT_IO_TRACE_IO"
"""Environment variable that turns `trace_io` on where the configuration does not say."""

LIBURING_FLAGS: Final = (
    "IOSQE_ASYNC",
    "IORING_SETUP_SQPOLL",
    "IORING_SETUP_COOP_TASKRUN",
    "IORING_SETUP_SINGLE_ISSUER",
    "IORING_SETUP_DEFER_TASKRUN",
)

_OUTPUT_ONLY = ("internal_pool_flag", "version")
_FOR_AN_INTERNAL_POOL = ("backing_thread_count", "internal_pool")

_log = logging.getLogger(__name__)


class AbtIoConfig(msgspec.Struct, frozen=True):
    """A valid configuration of an abt_io provider.

    Attributes
    ----------
    num_urings : int
        Number of io_urings, 1024 at most; with 0, plain system calls do the work. See `calls.open_calls`.
    liburing_flags : list of str
        Flags of each io_uring and of its requests.
    null_io_read, null_io_write : bool
        Reads, writes and syncs return at once without touching the file, for benchmarks.
    trace_io : bool
        Each operation prints a line on standard error.
    """

    num_urings: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    liburing_flags: list[str] = []
    null_io_read: bool = False
    null_io_write: bool = False
    trace_io: bool = False

    def expand(self) -> dict[str, Any]:
        """Return the configuration as a query shows it; `parse` of it gives this configuration again."""
        return {**msgspec.to_builtins(self), "internal_pool_flag": False, "version": VERSION}


def parse(config: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> AbtIoConfig:
    """Check a provider's configuration.

    Parameters
    ----------
    config : Mapping
        What was written; may be empty.
    environment : Mapping
        Where `TRACE_VARIABLE` is looked up.

    Raises
    ------
    ConfigError
        A field is unknown, of a wrong type or out of bounds, or a flag is unknown.
    """
    for field in _FOR_AN_INTERNAL_POOL:
        if field in config:
            _log.warning("abt_io: config.%s is ignored: the provider depends on a pool of the server", field)
    trace = environment.get(TRACE_VARIABLE, "0") not in ("", "0", "false")
    fields: dict[str, Any] = {"trace_io": trace}
    for field, value in config.items():
        if field in AbtIoConfig.__struct_fields__:
            fields[field] = value
        elif field not in _OUTPUT_ONLY + _FOR_AN_INTERNAL_POOL:
            raise ConfigError(f"config.{field}", f"unknown field{hint(field, AbtIoConfig.__struct_fields__)}")
    try:
        parsed = convert(fields, AbtIoConfig, "config")
    except margo.ConfigError as error:
        raise ConfigError(error.where, error.problem) from None
    for position, flag in enumerate(parsed.liburing_flags):
        if flag not in LIBURING_FLAGS:
            raise ConfigError(
                f"config.liburing_flags[{position}]",
                f"unknown flag {flag!r}{hint(flag, LIBURING_FLAGS)}",
            )
    if parsed.liburing_flags and not parsed.num_urings:
        _log.warning("abt_io: config.liburing_flags has no effect, for config.num_urings is 0")
    return parsed
