"""Engines, as programs of the original make them.

A driver needs none: it finds its servers by the group file. An engine is what a program passes on, or asks for its
address.
"""

import itertools
import json
import threading
import weakref
from typing import Any, Self

from mochi.margo.address import parse
from mochi.margo.client import Client
from mochi.margo.config import MargoConfig
from mochi.margo.engine import Engine as MargoEngine
from mochi.margo.errors import ConfigError, MargoError

__all__ = ["Address", "Engine", "MargoException", "client", "server"]

client = 0
"""Mode of an engine that does not listen."""

server = 1
"""Mode of an engine that listens."""

MargoException = MargoError

_ids = itertools.count(1)


class Address(str):
    """Where an engine listens; its text."""

    __slots__ = ()


def _section(options: Any) -> dict[str, Any]:
    """Return a margo configuration that is given as JSON text, as an object, or not at all."""
    try:
        return dict(json.loads(options) if isinstance(options, str) and options else options or {})
    except (TypeError, ValueError) as error:
        raise ConfigError("options", f"must be a margo configuration in JSON: {error}") from None


class _Mid(int):
    """A margo id, with the connections of its engine."""

    connections: Client


class Engine:
    """An engine; a context manager that finalizes it.

    One of mode `server` listens once its address is asked for.

    Parameters
    ----------
    addr : str
        A protocol such as ``na+sm``, or an address.
    mode : int
        `client` or `server`.
    use_progress_thread, num_rpc_threads, options
        As margo takes them: the last one is its configuration, in JSON.

    Attributes
    ----------
    mid : int
        Stands for the engine where a margo id is wanted.
    listening : bool
        Whether its mode is `server`.
    connections : mochi.margo.client.Client
        Those of all clients that are made with it, which share the tokens of the group files that one of them reads.

    Raises
    ------
    MargoException
        There is no such protocol, or the configuration is wrong.

    Notes
    -----
    Usable from any thread, not in a forked child. RPCs of a program's own cannot be registered.
    """

    def __init__(
        self,
        addr: str,
        mode: int = server,
        use_progress_thread: bool = False,
        num_rpc_threads: int = 0,
        options: Any = None,
    ) -> None:
        parse(addr)
        if mode not in (client, server):
            raise ValueError(f"mode must be pymargo.client or pymargo.server, not {mode!r}")
        settings = _section(options)
        if use_progress_thread:
            settings.setdefault("use_progress_thread", True)
        if num_rpc_threads:
            settings.setdefault("rpc_thread_count", num_rpc_threads)
        self.connections = Client()
        self.mid = _Mid(next(_ids))
        self.mid.connections = self.connections
        self.listening = mode == server
        self._protocol = addr
        self._config = MargoConfig.parse(settings)
        self._lock = threading.Lock()
        self._engine: MargoEngine | None = None
        self._ended = threading.Event()

    def __repr__(self) -> str:
        return f"<Engine {self._protocol!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.finalize()

    def addr(self) -> Address:
        """Return where the engine listens.

        Raises
        ------
        MargoException
            It is a client's, or has ended.
        """
        with self._lock:
            if not self.listening:
                raise MargoException("an engine of mode pymargo.client does not listen, and has no address")
            if self._ended.is_set():
                raise MargoException("the engine has ended")
            if self._engine is None:
                engine = MargoEngine(self._protocol, self._config)
                engine.gate.shut()  # nothing is served here
                threading.Thread(target=engine.run, name="pymargo", daemon=True).start()
                weakref.finalize(self, engine.finalize)
                self._engine = engine
            return Address(self._engine.address)

    @property
    def address(self) -> Address:
        """The same as `addr`."""
        return self.addr()

    def lookup(self, address: str) -> Address:
        """Return an address; `MargoException` for a text that is none. Nothing is sent."""
        parse(address)
        return Address(address)

    def finalize(self) -> None:
        """End the engine; idempotent."""
        with self._lock:
            self._ended.set()
            self.connections.close()
            if self._engine is not None:
                self._engine.finalize()

    def wait_for_finalize(self) -> None:
        """Block until another thread calls `finalize`; Ctrl-C interrupts."""
        self._ended.wait()

    def __getattr__(self, name: str) -> Any:
        """Tell who registers RPCs that these are not here."""
        raise AttributeError(
            f"this Engine, of mofka-compat, has no {name}: it is there to make drivers and clients with, without RPCs "
            "of a program's own"
        )
