"""Asking servers about themselves, and changing them while they run.

`BedrockClient` speaks to any server. `Client` makes handles, which scripts use: the same, bound to one server or to a
group of them.
"""

import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, overload

from msgspec import Struct

from mochi.bedrock import rpc
from mochi.bedrock.spec import PoolSpec, ProcSpec, ProviderHandle, ProviderSpec, XstreamSpec
from mochi.margo import deployment
from mochi.margo.address import parse
from mochi.margo.asking import answers
from mochi.margo.client import Client as MargoClient
from mochi.margo.errors import AddressError, ConfigError, ConnectionLost, Fault, MargoError
from mochi.margo.sharing import connect

__all__ = [
    "BedrockClient",
    "Client",
    "ClientException",
    "ServiceGroupHandle",
    "ServiceHandle",
    "answers",
    "ask_all",
]

R = TypeVar("R")

ClientException = MargoError
"""What every method here raises, under the name that it has in scripts."""

RETRY_INTERVAL = 0.05
"""Seconds between two look-ups of a provider that is not there yet."""


class BedrockClient:
    """Talks to the bedrock of any number of servers; as thread- and fork-safe as the margo client under it.

    Parameters
    ----------
    client : mochi.margo.client.Client
        Connections to use; it holds the tokens, and the time-out of each call.
    provider_id : int
        Provider id of bedrock at the servers; by default one that means it whatever its id is.

    Notes
    -----
    Every method raises a `MargoError` where the server cannot be reached or does not answer.
    """

    def __init__(self, client: MargoClient, *, provider_id: int = rpc.ENGINE_ID) -> None:
        self._client = client
        self._provider_id = provider_id

    def config(self, address: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the expanded configuration of a server, which has `timeout` seconds to answer."""
        return self._client.call(
            address,
            rpc.GET_CONFIG,
            rpc.Nothing(),
            dict[str, Any],
            provider_id=self._provider_id,
            timeout=timeout,
        )

    def query(self, address: str, script: str) -> Any:
        """Run a Jx9 script at a server, and return the value of JSON that it returns.

        Parameters
        ----------
        script : str
            It sees the expanded configuration as ``$__config__``; `mochi.bedrock.jx9.limits.QUERY` is what it may use.

        Raises
        ------
        Fault
            Code ``jx9``: it is no script, or failed; the details hold its ``line`` and ``column``, where known.
        """
        result = self._client.call(
            address,
            rpc.QUERY_CONFIG,
            rpc.QueryConfig(script),
            rpc.QueryResult,
            provider_id=self._provider_id,
        )
        for warning in result.warnings:
            deployment.log.warning("%s: %s", address, warning)
        return result.value

    def load_module(self, address: str, library: str) -> None:
        """Load a library; `Fault` ``config`` where it cannot be loaded."""
        self._change(address, rpc.LOAD_MODULE, rpc.LoadModule(library))

    def start_provider(self, address: str, spec: dict[str, Any], *, timeout: float | None = None) -> int:
        """Start a provider and return its id, within `timeout` seconds or the time-out of the client.

        Parameters
        ----------
        spec : dict
            An entry such as ``providers`` of a configuration holds.

        Raises
        ------
        Fault
            Code ``config``: the entry is wrong or the component cannot start it, and the server is as before.
        """
        return self._client.call(
            address,
            rpc.START_PROVIDER,
            rpc.StartProvider(spec),
            int,
            provider_id=self._provider_id,
            timeout=timeout,
        )

    def stop_provider(self, address: str, name: str) -> None:
        """Stop the provider of this name; `Fault` ``config`` if there is none, or another depends on it."""
        self._change(address, rpc.STOP_PROVIDER, rpc.StopProvider(name))

    def add_pool(self, address: str, spec: dict[str, Any]) -> None:
        """Add a pool, such as ``argobots.pools`` holds; `Fault` ``config`` if it is wrong."""
        self._change(address, rpc.ADD_POOL, rpc.Add(spec))

    def remove_pool(self, address: str, name: str) -> None:
        """Remove a pool; `Fault` ``config`` names those who need it."""
        self._change(address, rpc.REMOVE_POOL, rpc.Remove(name))

    def add_xstream(self, address: str, spec: dict[str, Any]) -> None:
        """Start an xstream, such as ``argobots.xstreams`` holds; `Fault` ``config`` if it is wrong."""
        self._change(address, rpc.ADD_XSTREAM, rpc.Add(spec))

    def remove_xstream(self, address: str, name: str) -> None:
        """Have an xstream end after the work that it is at; `Fault` ``config`` names those who need it."""
        self._change(address, rpc.REMOVE_XSTREAM, rpc.Remove(name))

    def lookup(self, address: str, spec: str, *, timeout: float | None = None) -> ProviderHandle:
        """Find a provider by ``name`` or ``type:id``.

        Parameters
        ----------
        timeout : float, optional
            Seconds that the whole look-up may take, during which the server and the provider may still appear. Without
            it, the server is asked once.

        Raises
        ------
        Fault
            Code ``not_found``: the server has no such provider.
        AddressError, ConnectionLost, DeadlineExceeded
            Nobody answers. An address of no known form is not waited for.
        """
        parse(address)
        deadline = time.monotonic() + (timeout or 0.0)
        while True:
            try:
                return self._client.call(
                    address,
                    rpc.LOOKUP_PROVIDER,
                    rpc.LookupProvider(spec),
                    ProviderHandle,
                    provider_id=self._provider_id,
                    timeout=None if timeout is None else max(deadline - time.monotonic(), RETRY_INTERVAL),
                )
            except (AddressError, ConnectionLost, Fault) as error:
                is_absent = not isinstance(error, Fault) or error.code == "not_found"
                if not is_absent or time.monotonic() + RETRY_INTERVAL > deadline:
                    raise
            time.sleep(RETRY_INTERVAL)

    def _change(self, address: str, name: str, args: Struct) -> None:
        self._client.call(address, name, args, type(None), provider_id=self._provider_id)

    def shutdown(self, address: str) -> None:
        """Tell a server to stop; returns once it has agreed, not once it has stopped."""
        self._client.call(address, rpc.SHUTDOWN, rpc.Nothing(), type(None), provider_id=rpc.ENGINE_ID)


class Client:
    """Makes handles of servers.

    Parameters
    ----------
    arg : str, Engine, int or mochi.margo.client.Client
        A protocol such as ``na+sm``, an engine, or connections that are there, see `mochi.margo.sharing.connect`.

    Notes
    -----
    Handles may be used from any thread, but not from the one that drives the engine they talk to. Each call takes as
    long as the margo client allows, 30 s by default.
    """

    def __init__(self, arg: Any) -> None:
        self.margo, self._token = connect(arg)

    def make_service_handle(self, address: str, provider_id: int = 0) -> "ServiceHandle":
        """Return a handle of the server at `address`; nothing is sent yet."""
        parse(address)
        if self._token is not None:
            self.margo.set_token(address, self._token)
        return ServiceHandle(self, address, provider_id)

    def make_service_group_handle(
        self, addresses: str | Iterable[str], provider_id: int = 0
    ) -> "ServiceGroupHandle":
        """Return a handle of the servers at `addresses`, or of one; nothing is sent yet."""
        members = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        return ServiceGroupHandle(self, lambda: members, provider_id)

    def make_service_group_handle_from_flock(
        self, file: str | os.PathLike[str], provider_id: int = 0
    ) -> "ServiceGroupHandle":
        """Return a handle of the members in a group file that have not ended; its token is used with them.

        Raises
        ------
        MargoError
            The file is missing, or no group file; also from `ServiceGroupHandle.refresh`, which reads it again.
        """
        group_file = importlib.import_module("mochi.flock.group_file")

        def members() -> tuple[str, ...]:
            view = group_file.read(file)
            for address, rank in view.ranks.items():
                if view.token is not None:
                    self.margo.set_token(address, view.token, rank)
            ended = {member.address for member in view.members if member.ended}
            return tuple(address for address in view.ranks if address not in ended)

        return ServiceGroupHandle(self, members, provider_id)


class ServiceHandle:
    """One server.

    Attributes
    ----------
    client : Client
    address : str
    provider_id : int
        Provider id of its bedrock.

    Notes
    -----
    Whatever describes something is given as JSON text, as decoded JSON, or as a spec of `mochi.bedrock.spec`. Methods
    raise `ClientException`; a `Fault` where it is the server that refuses.
    """

    def __init__(self, client: Client, address: str, provider_id: int) -> None:
        self.client = client
        self.address = address
        self.provider_id = provider_id
        self._bedrock = BedrockClient(client.margo, provider_id=provider_id)

    def __repr__(self) -> str:
        return f"<ServiceHandle {self.address!r}, provider {self.provider_id}>"

    @property
    def config(self) -> dict[str, Any]:
        """The expanded configuration, asked for now."""
        return self._bedrock.config(self.address)

    @property
    def spec(self) -> ProcSpec:
        """The expanded configuration as objects, asked for now."""
        return ProcSpec.from_dict(self.config)

    def query(self, script: str) -> Any:
        """Return what a Jx9 script returns, see `BedrockClient.query`."""
        return self._bedrock.query(self.address, script)

    def load_module(self, library: str) -> None:
        """Load a library."""
        self._bedrock.load_module(self.address, library)

    def add_pool(self, config: str | dict[str, Any] | PoolSpec) -> None:
        """Add a pool."""
        self._bedrock.add_pool(self.address, _document(config))

    def remove_pool(self, name: str) -> None:
        """Remove a pool that nothing uses."""
        self._bedrock.remove_pool(self.address, name)

    def add_xstream(self, config: str | dict[str, Any] | XstreamSpec) -> None:
        """Start an xstream."""
        self._bedrock.add_xstream(self.address, _document(config))

    def remove_xstream(self, name: str) -> None:
        """Have an xstream end that nothing needs."""
        self._bedrock.remove_xstream(self.address, name)

    def add_provider(self, description: str | dict[str, Any] | ProviderSpec) -> int:
        """Start a provider and return its id."""
        return self._bedrock.start_provider(self.address, _document(description))

    def remove_provider(self, name: str) -> None:
        """Stop a provider that no other depends on."""
        self._bedrock.stop_provider(self.address, name)

    def lookup(self, spec: str, *, timeout: float | None = None) -> ProviderHandle:
        """Find a provider by ``name`` or ``type:id``, see `BedrockClient.lookup`."""
        return self._bedrock.lookup(self.address, spec, timeout=timeout)

    def shutdown(self) -> None:
        """Tell the server to stop."""
        self._bedrock.shutdown(self.address)


class ServiceGroupHandle(Sequence[ServiceHandle]):
    """Several servers, in the order given or of the group file."""

    def __init__(self, client: Client, members: Callable[[], Iterable[str]], provider_id: int) -> None:
        self.client = client
        self.provider_id = provider_id
        self._members = members
        self.refresh()

    def __repr__(self) -> str:
        return f"<ServiceGroupHandle of {len(self)} servers>"

    def refresh(self) -> None:
        """Read the members again."""
        self._handles = [self.client.make_service_handle(a, self.provider_id) for a in self._members()]

    @property
    def size(self) -> int:
        """Number of servers."""
        return len(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    @overload
    def __getitem__(self, index: int) -> ServiceHandle: ...
    @overload
    def __getitem__(self, index: slice) -> list[ServiceHandle]: ...
    def __getitem__(self, index: int | slice) -> ServiceHandle | list[ServiceHandle]:
        return self._handles[index]

    @property
    def config(self) -> dict[str, Any]:
        """The expanded configurations by address, asked for now; the first server that does not answer raises."""
        return self._ask(lambda handle: handle.config)

    @property
    def spec(self) -> dict[str, ProcSpec]:
        """The expanded configurations as objects, by address."""
        return {address: ProcSpec.from_dict(config) for address, config in self.config.items()}

    def query(self, script: str) -> dict[str, Any]:
        """Return what a Jx9 script returns at each server, by address."""
        return self._ask(lambda handle: handle.query(script))

    def _ask(self, question: Callable[[ServiceHandle], Any]) -> dict[str, Any]:
        handles = {handle.address: handle for handle in self._handles}
        answers = ask_all(handles, lambda address: question(handles[address]))
        for answer in answers.values():
            if isinstance(answer, MargoError):
                raise answer
        return answers


def ask_all(addresses: Iterable[str], question: Callable[[str], R]) -> dict[str, R | MargoError]:
    """Ask all servers side by side; return what each answers, or its error, in the order of the addresses."""
    wanted = list(dict.fromkeys(addresses))
    found = dict(answers(wanted, question))
    return {address: found[address] for address in wanted}


def _document(value: "str | dict[str, Any] | PoolSpec | XstreamSpec | ProviderSpec") -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError("description", f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ConfigError("description", f"expected an object; found {type(value).__name__}")
    return value if isinstance(value, dict) else value.to_dict()
