"""Asking servers about themselves, and changing them while they run."""

import time
from typing import Any

from mochi.bedrock import rpc
from mochi.bedrock.spec import ProviderHandle
from mochi.margo.address import parse
from mochi.margo.client import Client
from mochi.margo.errors import AddressError, Fault

__all__ = ["BedrockClient"]

RETRY_INTERVAL = 0.05
"""Seconds between two look-ups of a provider that is not there yet."""


class BedrockClient:
    """Talks to the bedrock of any number of servers; as thread- and fork-safe as the `Client` under it.

    Parameters
    ----------
    client : Client
        Connections to use; it holds the tokens, and the time-out of each call.
    provider_id : int
        Provider id of bedrock at the servers.

    Notes
    -----
    Every method raises a `MargoError` where the server cannot be reached or does not answer.
    """

    def __init__(self, client: Client, *, provider_id: int = 0) -> None:
        self._client = client
        self._provider_id = provider_id

    def config(self, address: str) -> dict[str, Any]:
        """Return the expanded configuration of a server."""
        return self._client.call(
            address, rpc.GET_CONFIG, rpc.Nothing(), dict[str, Any], provider_id=self._provider_id
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
        return self._client.call(
            address,
            rpc.QUERY_CONFIG,
            rpc.QueryConfig(script),
            rpc.QueryResult,
            provider_id=self._provider_id,
        ).value

    def load_module(self, address: str, library: str) -> None:
        """Load a library; `Fault` ``config`` where it cannot be loaded."""
        self._client.call(
            address, rpc.LOAD_MODULE, rpc.LoadModule(library), type(None), provider_id=self._provider_id
        )

    def start_provider(self, address: str, spec: dict[str, Any]) -> int:
        """Start a provider and return its id.

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
            address, rpc.START_PROVIDER, rpc.StartProvider(spec), int, provider_id=self._provider_id
        )

    def stop_provider(self, address: str, name: str) -> None:
        """Stop the provider of this name; `Fault` ``config`` if there is none, or another depends on it."""
        self._client.call(
            address, rpc.STOP_PROVIDER, rpc.StopProvider(name), type(None), provider_id=self._provider_id
        )

    def lookup(self, address: str, spec: str, *, timeout: float = 0.0) -> ProviderHandle:
        """Find a provider by ``name`` or ``type:id``.

        Parameters
        ----------
        timeout : float
            Seconds to wait for the server and the provider to be there; 0 asks once.

        Raises
        ------
        Fault
            Code ``not_found``: the server has no such provider.
        AddressError
            Nobody answers, or the address has no known form, which is not waited for.
        """
        parse(address)
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self._client.call(
                    address,
                    rpc.LOOKUP_PROVIDER,
                    rpc.LookupProvider(spec),
                    ProviderHandle,
                    provider_id=self._provider_id,
                    timeout=max(deadline - time.monotonic(), RETRY_INTERVAL) if timeout else None,
                )
            except (AddressError, Fault) as error:
                is_absent = isinstance(error, AddressError) or error.code == "not_found"
                if not is_absent or time.monotonic() + RETRY_INTERVAL > deadline:
                    raise
            time.sleep(RETRY_INTERVAL)

    def shutdown(self, address: str) -> None:
        """Tell a server to stop; returns once it has agreed, not once it has stopped."""
        self._client.call(address, rpc.SHUTDOWN, rpc.Nothing(), type(None), provider_id=rpc.ENGINE_ID)
