"""Components by library name: what a module is, and how one is found.

A library is the name of an entry point of the group ``mochi.bedrock.modules``, of this distribution or any other.
The entry point is a class without arguments that has the shape of `Module`. A component need not import this
package. The path of a shared library means the entry point of its name. So do spellings that were in use: without
``lib`` or ``.so``, with a version, ``_`` for ``-``, ``bedrock`` for ``bedrock-module``.
"""

import logging
import os
import re
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol, runtime_checkable

from diaspora_stream.console.hints import nearest, suggestion
from mochi.bedrock.errors import ModuleError
from mochi.margo.engine import Engine

__all__ = [
    "Deployed",
    "Forms",
    "Guards",
    "MakesFiles",
    "Meets",
    "Module",
    "Provider",
    "Publishes",
    "Restores",
    "library_of",
    "load",
    "types",
]

GROUP = "mochi.bedrock.modules"

_SPELLING = re.compile(r"(?:lib)?(\w[\w-]*?)[-_]bedrock(?:[-_]module)?(?:\.\d+)*(?:\.so|\.dylib)?(?:\.\d+)*")

log = logging.getLogger(__name__)


class Provider(Protocol):
    """A running provider."""

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration, expanded; creating a provider from it gives an equal one."""

    def close(self) -> None:
        """Stop; idempotent."""


@runtime_checkable
class Meets(Protocol):
    """A module that has to know of the processes that its own was started with."""

    def meet(self, rank: int, size: int, secret: bytes | None) -> None:
        """Called before any provider is made, unless the process was started alone, and again once they part.

        Parameters
        ----------
        rank, size : int
            Ordinal of this process, and number of processes.
        secret : bytes or None
            Random, known to all of them; None where they cannot be heard: this process was started again.
        """


@runtime_checkable
class Guards(Protocol):
    """A module whose providers tell the gate of their engine who may come in. Until one is there, nobody may."""

    guards: bool


@runtime_checkable
class Forms(Protocol):
    """A provider that forms a group with those of its name in the other processes."""

    @property
    def offer(self) -> Any:
        """What the others are told, plain data."""

    def form(self, offers: Mapping[int, Any]) -> tuple[int, dict[int, str]]:
        """Form the group. Called once, when all providers exist, in all processes. May block.

        Parameters
        ----------
        offers : Mapping
            By the ranks of their processes, the own one included.

        Returns
        -------
        int
            Ordinal of this server in the group.
        dict
            Addresses of the servers of the group, by ordinal.
        """


@runtime_checkable
class Publishes(Protocol):
    """A provider that has something to say to the world once its server is complete."""

    def ready(self, engine: Engine) -> None:
        """Called once, when all servers that were started together are complete. May block."""


@runtime_checkable
class MakesFiles(Protocol):
    """A module whose providers keep something in files, which are their owner's alone.

    Attributes
    ----------
    by_umask : bool
        Whether the umask alone says who may use what they make; set before any provider is made.
    """

    by_umask: bool


class Deployed(Protocol):
    """A server, as a module sees it that brings providers back."""

    @property
    def engine(self) -> Engine:
        """What RPCs of the server itself may be defined on, see `mochi.bedrock.rpc.ENGINE_ID`."""

    @property
    def address(self) -> str:
        """Where it listens."""

    @property
    def rank(self) -> int:
        """Its ordinal in its service: the same one when it is started again."""

    @property
    def dependency_resolution_timeout(self) -> float | None:
        """Seconds to wait for a provider of another server; None where the configuration does not say."""

    @property
    def speaks(self) -> bool:
        """Whether it is the one that speaks of those that were started together, where one is enough."""

    def rest(self, seconds: float) -> None:
        """Wait for some time; `BedrockError` once the server is told to stop."""

    def config(self) -> dict[str, Any]:
        """Its configuration, expanded."""

    def provider(self, name: str) -> Provider:
        """Return a provider of this server."""

    def start_provider(self, spec: Any, where: str = "provider") -> int:
        """Start a provider from an entry such as ``providers`` holds, and return its id."""

    def stop_provider(self, name: str) -> None:
        """Stop the provider of this name."""


@runtime_checkable
class Restores(Protocol):
    """A module that takes back what an earlier run of the server has left."""

    def restore(self, server: Deployed) -> None:
        """Called once, after the configured providers exist and before any says so to the world. May block.

        Of a module that is loaded later, called then.
        """


class Module(Protocol):
    """What a component tells about itself, and how it makes providers."""

    type: str

    def dependencies(self, config: dict[str, Any]) -> dict[str, tuple[str, bool]]:
        """Dependencies of a provider that has this `config`: name -> (kind, whether it is required).

        The kind is ``pool``, ``xstream``, or a provider type; with ``[]`` behind it, an array of these.
        """

    def create(
        self,
        engine: Engine,
        name: str,
        provider_id: int,
        config: dict[str, Any],
        tags: list[str],
        dependencies: dict[str, Any],
    ) -> Provider:
        """Start a provider.

        Parameters
        ----------
        dependencies : dict
            For each that is given: the `Pool`, the name of the xstream, or what stands for a provider; or a list of
            those. A provider of this server, given without ``@``, is the `Provider`. One that is given with it is a
            `ProviderHandle`.
        """


def load(library: str) -> Module | None:
    """Load the module of a library; None, with a warning, where the library is unknown.

    Raises
    ------
    ModuleError
        The library is known, and its module cannot be imported or made.
    """
    known = {point.name: point for point in entry_points(group=GROUP)}
    name = _known_name(library, known)
    if name is not None:
        try:
            module: Module = known[name].load()()
        except Exception as error:
            raise ModuleError(
                f'library "{library}" cannot be loaded: {type(error).__name__}: {error}'
            ) from error
        return module
    components = {_component(name): name for name in known}
    near = nearest(_component(library), components)
    hint = suggestion(near and components[near])
    log.warning('libraries: unknown library "%s"%s; ignored', library, hint)
    return None


def _known_name(library: str, known: Collection[str]) -> str | None:
    """Name of the entry point that a library in a configuration means."""
    names = (library, os.path.basename(library), _library(_component(library)))
    return next((name for name in names if name in known), None)


def _component(library: str) -> str:
    """What a library is named after, by the custom of their names."""
    name = os.path.basename(library)
    spelled = _SPELLING.fullmatch(name)
    return spelled[1] if spelled else name


def _library(component: str) -> str:
    return f"lib{component.replace('_', '-')}-bedrock-module.so"


def types() -> list[str]:
    """Names of the components that there are."""
    return sorted(_component(point.name).replace("-", "_") for point in entry_points(group=GROUP))


def library_of(provider_type: str) -> str | None:
    """Name of the known library that brings a provider type, by the custom of their names."""
    library = _library(provider_type)
    return library if entry_points(group=GROUP, name=library) else None
