"""Configuration of a provider: which target it serves, and with which options."""

import logging
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct

from diaspora_stream.console.hints import hint
from mochi.abt_io import config as abt_io_config
from mochi.abt_io.errors import ConfigError as AbtIoConfigError
from mochi.abt_io.instance import Instance
from mochi.margo.config import convert
from mochi.margo.errors import ConfigError
from mochi.warabi.file import FileConfig, FileTarget, PmdkConfig
from mochi.warabi.memory import MemoryTarget

__all__ = ["TYPES", "Open", "ProviderConfig", "open_target"]

log = logging.getLogger(__name__)

TYPES = ("memory", "abtio", "pmdk")
"""Types of targets that a configuration may name."""

_TARGET = "config.target.config"


class TargetConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """``target``: a type of `TYPES`, and its own configuration."""

    type: str = "memory"
    config: dict[str, Any] = {}


class PipelineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Of a ``pipeline``: the buffers through which the original moves data. Data goes straight to its place here."""

    num_pools: Annotated[int, Meta(ge=1)]
    num_buffers_per_pool: Annotated[int, Meta(ge=1)]
    first_buffer_size: Annotated[int, Meta(ge=1)]
    buffer_size_multiplier: Annotated[float, Meta(gt=1.0)]


class TransferConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """``transfer_manager``."""

    type: str = "__default__"
    config: dict[str, Any] = {}


class ProviderConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration of a provider of type ``warabi``."""

    target: TargetConfig = TargetConfig()
    transfer_manager: TransferConfig = TransferConfig()


class Open(Struct, frozen=True):
    """A target that is open.

    Attributes
    ----------
    target : Target
    io : Instance or None
        Whose threads its calls belong on, since they wait for a disk; closed after the target.
    config : dict
        The configuration with every default filled in; it opens the same target again.
    """

    target: MemoryTarget | FileTarget
    io: Instance | None
    config: dict[str, Any]


def open_target(config: dict[str, Any], start_io: Callable[[abt_io_config.AbtIoConfig], Instance]) -> Open:
    """Open the target that a provider's configuration describes.

    Parameters
    ----------
    start_io : callable
        Makes the threads of a target in a file.

    Raises
    ------
    ConfigError
        Something in the configuration is unknown or wrong, or the target does not open.
    """
    parsed = convert(config, ProviderConfig, "config")
    _check_transfer(parsed.transfer_manager)
    kind, given = parsed.target.type, parsed.target.config
    io = None
    target: MemoryTarget | FileTarget
    if kind == "memory":
        target = MemoryTarget(given, _TARGET)
        shown = target.config
    elif kind in ("abtio", "pmdk"):
        settings = _of_pmdk(given) if kind == "pmdk" else convert(given, FileConfig, _TARGET)
        io = start_io(_io_config(settings))
        try:
            target = FileTarget(settings, io, _TARGET)
        except BaseException:
            io.close()
            raise
        shown = given if kind == "pmdk" else {**target.config, "abt_io": io.config}
    else:
        raise ConfigError("config.target.type", f'unknown type "{kind}"{hint(kind, TYPES)}')
    expanded = {
        "target": {"type": kind, "config": shown},
        "transfer_manager": msgspec.to_builtins(parsed.transfer_manager),
    }
    return Open(target, io, expanded)


def _check_transfer(transfer: TransferConfig) -> None:
    where = "config.transfer_manager"
    if transfer.type == "pipeline":
        convert(transfer.config, PipelineConfig, f"{where}.config")
        log.info("%s: a pipeline's buffers are not needed, data goes straight to its place", where)
    elif transfer.type != "__default__":
        raise ConfigError(
            f"{where}.type", f'unknown type "{transfer.type}"; known are __default__ and pipeline'
        )


def _of_pmdk(given: dict[str, Any]) -> FileConfig:
    settings = convert(given, PmdkConfig, _TARGET)
    log.warning("config.target: a pmdk target is a plain file here, and %s is used as such", settings.path)
    return FileConfig(
        path=settings.path,
        create_if_missing=settings.create_if_missing_with_size is not UNSET,
        override_if_exists=settings.override_if_exists,
    )


def _io_config(settings: FileConfig) -> abt_io_config.AbtIoConfig:
    try:
        return abt_io_config.parse({} if settings.abt_io is UNSET else settings.abt_io)
    except AbtIoConfigError as error:
        raise ConfigError(error.where.replace("config", f"{_TARGET}.abt_io", 1), error.problem) from None
