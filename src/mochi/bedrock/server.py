"""`Deployment` is a server: one engine, the modules it has loaded, and its providers from start to stop.

Invariants:

- a provider is created after all that it depends on, and closed before them;
- a provider that fails to start leaves no trace: no RPC, no name, no id;
- `Deployment.config` describes what runs now, and deploys the same server again.

Deployment happens in the constructor; what is asked meanwhile waits, unless a provider waits for one of another
server. `Deployment.run` then completes the server in a thread of its own. RPCs are answered already, so that the
servers of a service can ask each other. Providers form their groups, modules take back what an earlier run has left,
and the providers say to the world that they are there. Later changes come by RPC, one at a time, in the pool that
the ``bedrock`` section names.

Nobody is let in before it is known who may come, but those that were started together with this server. A configuration
without a provider that guards the server leaves it open.

The servers of a service keep step by the rounds of `mochi.bedrock.peers`. Each makes the same four: where it
listens; what its providers offer; that it is complete; that it has told the world.

`Server` is the same in a thread, for programs that have a server in their own process.
"""

import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Self, TypeVar

import msgspec

from diaspora_stream.console.hints import nearest, suggestion
from mochi import shortage
from mochi.bedrock import modules, rpc
from mochi.bedrock.client import BedrockClient
from mochi.bedrock.conditions import variables
from mochi.bedrock.config import ServerConfig, assign_ids, parse, parse_provider
from mochi.bedrock.dependencies import Dependencies, Running, find, is_remote, or_which, resolve
from mochi.bedrock.errors import BedrockError, DeploymentError, ModuleError
from mochi.bedrock.modules import Forms, Guards, MakesFiles, Meets, Module, Provider, Publishes, Restores
from mochi.bedrock.peers import Alone, Peers, Returning
from mochi.bedrock.queries import Queries, pause
from mochi.bedrock.sources import from_json
from mochi.bedrock.spec import ProcSpec, ProviderHandle, ProviderSpec, SpecList, World
from mochi.margo import deployment
from mochi.margo.address import canonical
from mochi.margo.client import Client
from mochi.margo.connection import Request
from mochi.margo.engine import Engine, unpack_arguments
from mochi.margo.errors import ConfigError, Fault, MargoError
from mochi.margo.peer import Seat
from mochi.margo.rpc import pack

__all__ = ["Deployment", "MargoManager", "Server"]

R = TypeVar("R")

SECRET_SIZE = 32

DEPENDENCY_TIMEOUT = 30.0
"""Seconds to wait for a provider of another server, where the configuration does not say."""

log = logging.getLogger(__name__)


class Deployment:
    """Deploys a configuration; `run` then serves it.

    Parameters
    ----------
    config : ServerConfig
        From `mochi.bedrock.config.parse`.
    address : str, optional
        Where to listen; wins over the address in `config`.
    peers : Peers, optional
        The processes started together; without it, this one is alone.

    Attributes
    ----------
    world : World
        The same as conditions and scripts see them, with their addresses.

    Raises
    ------
    MargoError
        Anything that stops the deployment; what was already started is closed again.

    Notes
    -----
    The constructor and `run` belong to one thread; all other methods may be called from any. Not usable in a
    forked child.
    """

    def __init__(
        self, config: ServerConfig, address: str | None = None, *, peers: Peers | None = None
    ) -> None:
        address = address or config.address
        if address is None:
            raise ConfigError(
                "margo.mercury.address", "missing, and no other address is given; try na+sm or tcp"
            )
        self._peers = peers or Alone()
        self.world = World.unknown(self._peers.rank, self._peers.size)
        self._secret: bytes | None = None
        self._settings = config
        self._closed = False
        self._stopping = threading.Event()
        self._is_restored = False
        self._libraries: list[str] = []
        self._broken: dict[str, str] = {}
        self._modules: dict[str, Module] = {}
        self._running: dict[str, Running] = {}
        self._changing = threading.RLock()
        self._client = Client()
        self.engine = Engine(address, config.margo)
        self.engine.gate.shut()
        self.engine.on_finalize.append(self._close)
        try:
            self._deploy()
        except BaseException:
            self._close()
            self.engine.finalize()
            self.engine.run()
            raise

    @property
    def address(self) -> str:
        """The address as clients can use it."""
        return self.engine.address

    @property
    def rank(self) -> int:
        """Ordinal of this server in its service."""
        return self.world.rank

    @property
    def dependency_resolution_timeout(self) -> float | None:
        """Seconds to wait for a provider of another server; None where the configuration does not say."""
        return self._settings.dependency_resolution_timeout

    @property
    def speaks(self) -> bool:
        """Whether it is the one that speaks of those that were started together, where one is enough."""
        return self._peers.speaks

    def rest(self, seconds: float) -> None:
        """Wait for some time; `BedrockError` once the server is told to stop."""
        if self._stopping.wait(seconds):
            raise BedrockError("told to stop before it was complete")

    def provider(self, name: str) -> Provider:
        """Return the provider of this name; `BedrockError` if there is none."""
        with self._changing:
            return self._named(name).provider

    def config(self) -> dict[str, Any]:
        """Return the expanded configuration: plain JSON, keys sorted at every level."""
        with self._changing:
            document = {
                "bedrock": {
                    "pool": self._settings.pool,
                    "provider_id": self._settings.provider_id,
                    **({"file_mode": self._settings.file_mode} if self._settings.file_mode else {}),
                },
                "libraries": self._libraries,
                "margo": self.engine.expanded_config(),
                "providers": [_expand(running) for running in self._running.values()],
            }
            expanded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document, order="sorted"))
            return expanded

    def query(
        self,
        script: str,
        warn: Callable[[str], None] | None = None,
        pause: Callable[[], None] | None = None,
    ) -> Any:
        """Run a Jx9 script over the expanded configuration, which it sees as ``$__config__``; return its value.

        An empty script returns the configuration. For `warn` and `pause` see `mochi.bedrock.jx9.interpreter.run`.

        Raises
        ------
        Jx9Error
            It is no script, failed, or uses more than `mochi.bedrock.jx9.limits.QUERY`.
        """
        # Loaded here: the parser is not for servers that are never asked.
        from mochi.bedrock.jx9.interpreter import run

        config = self.config()
        found = run(script, {"__config__": config, **variables(self.world)}, warn=warn, pause=pause)
        return found if script.strip() else config

    def run(self, on_ready: Callable[[], None] = lambda: None) -> int:
        """Complete the server, and serve until `finalize`; then close all providers, the youngest first.

        Parameters
        ----------
        on_ready : callable
            Called once the server is complete, from a thread of its own.

        Returns
        -------
        int
            The status.

        Raises
        ------
        MargoError
            The server cannot be completed; it is closed by then. Whatever `on_ready` raises has the same effect.
        OSError
            There is no thread for it (EAGAIN).
        """
        failures: list[BaseException] = []

        def complete() -> None:
            try:
                self._complete()
                on_ready()
            except BaseException as error:
                if not self._stopping.is_set():
                    failures.append(error)
                self.finalize()

        def start() -> None:
            try:
                shortage.start(threading.Thread(target=complete, name="bedrock-start", daemon=True))
            except OSError as error:
                failures.append(error)
                self.finalize()

        self.engine.call_soon(start)
        try:
            status = self.engine.run()
        finally:
            self._close()
        if failures:
            raise failures[0]
        return status

    def finalize(self) -> None:
        """Make `run` return. Idempotent."""
        self._stopping.set()
        self.engine.finalize()

    def load_module(self, library: str) -> None:
        """Load a library, unless it is loaded already; one that is unknown is passed over with a warning.

        Raises
        ------
        ModuleError
            It is known, and cannot be loaded.
        """
        with self._changing:
            if library in self._libraries and library not in self._broken:
                return
            module = modules.load(library)
            if self._broken.pop(library, None) is None:
                self._libraries.append(library)
            if module is None or type(module) is type(self._modules.get(module.type)):
                return  # unknown, or named twice
            self._modules[module.type] = module
            if isinstance(module, MakesFiles):
                module.by_umask = self._settings.file_mode == "umask"
            self._introduce(module)
            log.debug("loaded %s, which brings the type %s", library, module.type)
        if self._is_restored and isinstance(module, Restores):
            module.restore(self)

    def start_provider(self, spec: Any, where: str = "provider") -> int:
        """Start a provider from an entry such as ``providers`` holds, and return its id.

        A dependency of another server is waited for, up to ``dependency_resolution_timeout``, while everything else
        goes on.

        Raises
        ------
        ConfigError
            The entry is wrong, or its name or id is taken.
        DeploymentError
            Its component cannot start it.
        """
        parsed = parse_provider(spec, where)
        dependencies = self._resolve(parsed, where)
        with self._changing:
            if self._closed:
                raise BedrockError(f"the server at {self.address} has ended")
            for name, provider in dependencies.providers.items():
                if name not in self._running or self._running[name].provider is not provider:
                    raise BedrockError(f'provider "{name}" was stopped meanwhile')
            for pool in dependencies.pools:
                self.engine.config.served_pool_name(pool, f"{where}.dependencies")
            for xstream in dependencies.xstreams:
                self.engine.config.xstream_name(xstream, f"{where}.dependencies")
            ids = {self._settings.provider_id: "bedrock itself"}
            ids.update((running.spec.provider_id, name) for name, running in self._running.items())
            (numbered,) = assign_ids([parsed], ids, self._running, where)
            running = self._start(numbered, dependencies, where)
            try:
                if isinstance(running.provider, Forms):
                    self._form(running, {self._peers.rank: running.provider.offer}, where)
                self._publish(running, where)
            except BaseException:
                self._stop(running)
                raise
            return numbered.provider_id

    def stop_provider(self, name: str) -> None:
        """Stop the provider of this name.

        Raises
        ------
        BedrockError
            There is none, or another provider depends on it.
        """
        with self._changing:
            running = self._named(name)
            users = [user for user, other in self._running.items() if name in other.dependencies.providers]
            if users:
                raise BedrockError(f'provider "{name}" is needed by {", ".join(users)}')
            self._stop(running)

    def add_pool(self, spec: Any, where: str = "pool") -> None:
        """Add a pool from an entry such as ``argobots.pools`` holds; `ConfigError` if it is wrong."""
        with self._changing:
            self.engine.add_pool(spec, where)

    def remove_pool(self, name: str) -> None:
        """Remove a pool; `InUse` says who needs it, `ConfigError` that there is none."""
        with self._changing:
            self.engine.remove_pool(name, self._pool_users().get(self.engine.config.pool_name(name), ()))

    def add_xstream(self, spec: Any, where: str = "xstream") -> None:
        """Start an xstream from an entry such as ``argobots.xstreams`` holds; `ConfigError` if it is wrong."""
        with self._changing:
            self.engine.add_xstream(spec, where)

    def remove_xstream(self, name: str) -> None:
        """Have an xstream end after its work; `InUse` says who needs it, `ConfigError` that there is none."""
        with self._changing:
            users = [
                f"provider {user}"
                for user, running in self._running.items()
                if self.engine.config.xstream_name(name) in running.dependencies.xstreams
            ]
            self.engine.remove_xstream(name, users, self._pool_users())

    def _pool_users(self) -> dict[str, list[str]]:
        users = {self._settings.pool: ["bedrock"]}
        for name, running in self._running.items():
            for pool in running.dependencies.pools:
                users.setdefault(pool, []).append(f"provider {name}")
        return users

    def lookup_provider(self, spec: str) -> ProviderHandle | None:
        """Find a provider of this server by ``name`` or ``type:id``; None if there is none."""
        running = find(spec, self._running)
        if running is None:
            return None
        return ProviderHandle(self.address, running.spec.provider_id, running.spec.type)

    def _named(self, name: str) -> Running:
        running = self._running.get(name)
        if running is None:
            raise BedrockError(f'no provider is named "{name}"{or_which(name, self._running)}')
        return running

    def _deploy(self) -> None:
        self._define()
        said = self._peers.gather([self.address, secrets.token_bytes(SECRET_SIZE)])
        self.world = self.world.having({rank: address for rank, (address, _) in said.items()})
        if type(self._peers) not in (Alone, Returning):
            self._secret = min(said.items())[1][1]
        if self._secret:
            self.engine.gate.admit_peers(Seat(self._secret, self._peers.rank))
        for library in self._settings.libraries:
            try:
                self.load_module(library)
            except ModuleError as error:  # fatal only to a provider that needs it
                log.warning("libraries: %s; ignored", error)
                self._libraries.append(library)
                self._broken[library] = str(error)
        paths = {spec.name: f"providers[{index}]" for index, spec in enumerate(self._settings.providers)}
        needed = [self._module(spec, paths[spec.name]) for spec in self._settings.providers]
        if not any(isinstance(module, Guards) for module in needed):
            self.engine.gate.open()
        for spec in self._settings.providers:
            self._start(spec, self._deployed(spec, paths[spec.name]), paths[spec.name])

    def _complete(self) -> None:
        configured = {
            f"providers[{index}]": self._running[spec.name]
            for index, spec in enumerate(self._settings.providers)
            if spec.name in self._running
        }
        offers = self._peers.gather(
            {
                running.spec.name: running.provider.offer
                for running in configured.values()
                if isinstance(running.provider, Forms)
            }
        )
        if self.engine.gate.is_open and (self._peers.speaks or any(offers.values())):
            deployment.log.warning(
                "%s is open to whoever can reach it, who may also stop it: no provider gives the service a token, "
                "as one of the type flock does",
                self.address,
            )
        for where, running in configured.items():
            name = running.spec.name
            self._form(running, {rank: said[name] for rank, said in offers.items() if name in said}, where)
        for module in list(self._modules.values()):
            if isinstance(module, Restores):
                module.restore(self)
        self._is_restored = True
        self._peers.gather(None)
        for where, running in configured.items():
            self._publish(running, where)
        self._peers.gather(None)
        with self._changing:
            self._secret = None
            self.engine.gate.admit_peers(None)
            for module in self._modules.values():
                self._introduce(module)
        self._peers.close()

    def _introduce(self, module: Module) -> None:
        if isinstance(module, Meets) and type(self._peers) is not Alone:
            module.meet(self._peers.rank, self._peers.size, self._secret)

    def _form(self, running: Running, offers: dict[int, Any], where: str) -> None:
        if not isinstance(running.provider, Forms):
            return
        try:
            rank, addresses = running.provider.form(offers)
        except Exception as error:
            raise _in_context(error, where, running.spec.name) from error
        self.world = msgspec.structs.replace(self.world.having(addresses), rank=rank)

    def _deployed(self, spec: ProviderSpec, where: str) -> Dependencies:
        """Resolve dependencies before `run`; other servers, which may wait for this one, are answered meanwhile."""
        if not any(map(is_remote, spec.dependencies.values())):
            return self._resolve(spec, where)
        resolved = _in_thread(lambda: self._resolve(spec, where))
        self.engine.run_until(resolved)
        if not resolved.done():
            raise BedrockError("told to stop before it was complete")
        return resolved.result()

    def _define(self) -> None:
        pool = self.engine.pool(self._settings.pool)
        own = self._settings.provider_id

        def lookup(args: rpc.LookupProvider) -> ProviderHandle:
            handle = self.lookup_provider(args.spec)
            if handle is None:
                raise Fault(
                    "not_found",
                    f'no provider "{args.spec}" at {self.address}{or_which(args.spec, self._running)}',
                )
            return handle

        queries = Queries()

        def query(request: Request) -> None:
            args = unpack_arguments(rpc.QUERY_CONFIG, request, rpc.QueryConfig)

            def run() -> None:
                from mochi.bedrock.jx9.errors import Jx9Error

                try:
                    warnings: list[str] = []
                    result = rpc.QueryResult(self.query(args.script, warnings.append, pause), warnings)
                except Jx9Error as error:
                    raise Fault("jx9", str(error), {"line": error.line, "column": error.column}) from error
                request.reply(pack(result))

            queries.put(request, run)

        def start(args: rpc.StartProvider) -> int | Future[int]:
            def change() -> int:
                return _faulting(lambda: self.start_provider(args.spec))

            dependencies = args.spec.get("dependencies")
            if isinstance(dependencies, dict) and any(map(is_remote, dependencies.values())):
                return _in_thread(change)  # it waits for others, and this pool may be the loop's
            return change()

        def stop(args: rpc.StopProvider) -> None:
            _faulting(lambda: self.stop_provider(args.name))

        def load(args: rpc.LoadModule) -> Future[None] | None:
            return _in_thread(lambda: _faulting(lambda: self.load_module(args.library)))  # it may ask others

        def adding(add: Callable[[Any], None]) -> Callable[[rpc.Add], None]:
            return lambda args: _faulting(lambda: add(args.spec))

        def removing(remove: Callable[[str], None]) -> Callable[[rpc.Remove], None]:
            return lambda args: _faulting(lambda: remove(args.name))

        for id in (own, rpc.ENGINE_ID):
            self.engine.define(rpc.GET_CONFIG, id, rpc.Nothing, lambda _: self.config(), pool=pool)
            self.engine.register(rpc.QUERY_CONFIG, id, query, pool=pool)
            self.engine.define(rpc.LOAD_MODULE, id, rpc.LoadModule, load, pool=pool)
            self.engine.define(rpc.START_PROVIDER, id, rpc.StartProvider, start, pool=pool)
            self.engine.define(rpc.STOP_PROVIDER, id, rpc.StopProvider, stop, pool=pool)
            self.engine.define(rpc.ADD_POOL, id, rpc.Add, adding(self.add_pool), pool=pool)
            self.engine.define(rpc.REMOVE_POOL, id, rpc.Remove, removing(self.remove_pool), pool=pool)
            self.engine.define(rpc.ADD_XSTREAM, id, rpc.Add, adding(self.add_xstream), pool=pool)
            self.engine.define(rpc.REMOVE_XSTREAM, id, rpc.Remove, removing(self.remove_xstream), pool=pool)
            self.engine.define(rpc.LOOKUP_PROVIDER, id, rpc.LookupProvider, lookup, pool=pool)
        self.engine.define(rpc.SHUTDOWN, rpc.ENGINE_ID, rpc.Nothing, lambda _: self.finalize(), pool=pool)

    def _resolve(self, spec: ProviderSpec, where: str) -> Dependencies:
        module = self._module(spec, where)
        try:
            declared = module.dependencies(spec.config)
        except Exception as error:
            raise _in_context(error, where, spec.name) from error
        timeout = self._settings.dependency_resolution_timeout
        deadline = time.monotonic() + (DEPENDENCY_TIMEOUT if timeout is None else timeout)
        return resolve(
            spec,
            declared,
            where,
            engine=self.engine,
            running=self._running,
            own_names=("local", self.address, canonical(self._settings.address or self.address)),
            world=self.world,
            look_up=partial(self._look_up, deadline),
        )

    def _look_up(self, deadline: float, what: str, address: str) -> ProviderHandle:
        rank = self.world.rank_of(address)
        token = self.engine.gate.token if rank is None else self._secret or self.engine.gate.token
        if token:
            self._client.set_token(address, token, rank)
        return BedrockClient(self._client).lookup(
            address, what, timeout=max(deadline - time.monotonic(), 0.0)
        )

    def _start(self, spec: ProviderSpec, dependencies: Dependencies, where: str) -> Running:
        module = self._module(spec, where)
        try:
            provider = module.create(
                self.engine, spec.name, spec.provider_id, spec.config, spec.tags, dependencies.resolved
            )
        except Exception as error:
            self.engine.undefine(spec.provider_id)
            raise _in_context(error, where, spec.name) from error
        running = self._running[spec.name] = Running(spec, provider, dependencies)
        log.debug("started provider %s (%s:%d)", spec.name, spec.type, spec.provider_id)
        return running

    def _publish(self, running: Running, where: str) -> None:
        if isinstance(running.provider, Publishes):
            try:
                running.provider.ready(self.engine)
            except Exception as error:
                raise _in_context(error, where, running.spec.name) from error

    def _stop(self, running: Running) -> None:
        del self._running[running.spec.name]
        try:
            running.provider.close()
        except Exception as error:
            log.error(
                "provider %s did not close cleanly: %s: %s", running.spec.name, type(error).__name__, error
            )
        self.engine.undefine(running.spec.provider_id)

    def _close(self) -> None:
        self._stopping.set()
        with self._changing:
            self._closed = True
            for running in reversed(list(self._running.values())):
                self._stop(running)
        self._client.close()

    def _module(self, spec: ProviderSpec, where: str) -> Module:
        module = self._modules.get(spec.type)
        if module is not None:
            return module
        library = modules.library_of(spec.type)
        if self._broken:
            hint = "".join(f"; {problem}" for problem in self._broken.values())
        elif library is None:
            hint = suggestion(nearest(spec.type, self._modules)) or (
                f"; no known library does, only those of {', '.join(modules.types())}"
            )
        else:
            hint = f'; add "{library}" to libraries'
        raise ConfigError(f"{where}.type", f'no loaded library brings the type "{spec.type}"{hint}')


class MargoManager:
    """The engine of a server, as programs ask for it.

    Attributes
    ----------
    engine : Engine
        Clients in this process are made with it.
    mid : Engine
        The same, where a margo id is wanted.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.mid = engine.mid

    @property
    def config(self) -> dict[str, Any]:
        """Its expanded configuration."""
        return self.engine.expanded_config()


class Server:
    """A server in a thread of this process, which serves from its construction on until `finalize`.

    A context manager that finalizes it; the end of the process does so as well.

    Parameters
    ----------
    address : str
        Where to listen: a protocol such as ``na+sm``, or an address.
    config : str, mapping or ProcSpec
        Its configuration, or that as JSON text.

    Raises
    ------
    MargoError
        Anything that stops the deployment.

    Notes
    -----
    Usable from any thread, but not from handlers of the server itself, nor in a forked child.
    """

    def __init__(self, address: str, config: str | Mapping[str, Any] | ProcSpec = "{}") -> None:
        if isinstance(config, ProcSpec):
            document: Any = config.to_dict()
        else:
            document = from_json(config.encode(), "config") if isinstance(config, str) else dict(config)
        ready: Future[Deployment] = Future()

        def serve() -> None:
            try:
                deployed = Deployment(parse(document), address)
                deployed.run(lambda: ready.set_result(deployed))
            except BaseException as error:
                if ready.done():
                    raise
                ready.set_exception(error)

        self._thread = threading.Thread(target=serve, name="bedrock-server", daemon=True)
        shortage.start(self._thread)
        self._deployed = ready.result()
        self._finalizer = weakref.finalize(self, _end, self._deployed, self._thread)

    def __repr__(self) -> str:
        return f"<Server {self.address!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.finalize()

    @property
    def address(self) -> str:
        """The address as clients can use it."""
        return self._deployed.address

    @property
    def margo(self) -> MargoManager:
        """Its engine."""
        return MargoManager(self._deployed.engine)

    @property
    def config(self) -> dict[str, Any]:
        """The expanded configuration."""
        return self._deployed.config()

    @property
    def spec(self) -> ProcSpec:
        """The expanded configuration as objects."""
        return ProcSpec.from_dict(self.config)

    @property
    def providers(self) -> SpecList[ProviderSpec]:
        """The providers, by index or name."""
        return self.spec.providers

    def finalize(self) -> None:
        """Close all providers and the engine; returns once that is done. Idempotent."""
        self._finalizer()

    def wait_for_finalize(self) -> None:
        """Block until the server is told to stop, by another thread or by a client; Ctrl-C interrupts."""
        self._thread.join()


def _end(deployed: Deployment, thread: threading.Thread) -> None:
    deployed.finalize()
    thread.join()


def _expand(running: Running) -> dict[str, Any]:
    fields = {name: getattr(running.spec, name) for name in ("engine", "name", "provider_id", "tags", "type")}
    return {**fields, "config": running.provider.config, "dependencies": running.dependencies.shown}


def _in_context(error: Exception, where: str, name: str) -> MargoError:
    """Say of a component's error which provider it is about."""
    if isinstance(error, ConfigError):
        return ConfigError(f"{where}.{error.where}", error.problem)
    problem = str(error) if isinstance(error, MargoError) else f"{type(error).__name__}: {error}"
    return DeploymentError(where, f'provider "{name}" cannot start: {problem}')


def _in_thread(work: Callable[[], R]) -> Future[R]:
    """Start `work` in a thread of its own, which does not keep the process from ending; OSError if there is none."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    shortage.start(threading.Thread(target=run, name="bedrock-change", daemon=True))
    return future


def _faulting(change: Callable[[], R]) -> R:
    """Let an error of `change` travel to the caller."""
    try:
        return change()
    except MargoError as error:
        raise Fault("config", str(error)) from error
