"""What a bedrock client and a server say to each other: names of RPCs, and their arguments.

All are RPCs of the provider id that the ``bedrock`` section gives, 0 if it gives none, and of `ENGINE_ID`, for who
knows nothing of a server but its address. `SHUTDOWN` is of that one alone.
"""

from typing import Any, Final

from msgspec import Struct

from mochi.bedrock.spec import AUTOMATIC

ENGINE_ID: Final = AUTOMATIC

GET_CONFIG: Final = "bedrock_get_config"
QUERY_CONFIG: Final = "bedrock_query_config"
LOAD_MODULE: Final = "bedrock_load_module"
START_PROVIDER: Final = "bedrock_start_provider"
STOP_PROVIDER: Final = "bedrock_stop_provider"
ADD_POOL: Final = "bedrock_add_pool"
REMOVE_POOL: Final = "bedrock_remove_pool"
ADD_XSTREAM: Final = "bedrock_add_xstream"
REMOVE_XSTREAM: Final = "bedrock_remove_xstream"
LOOKUP_PROVIDER: Final = "bedrock_lookup_provider"
SHUTDOWN: Final = "__shutdown__"


class Nothing(Struct):
    """Arguments of an RPC that needs none."""


class QueryConfig(Struct):
    """Run a Jx9 script over the expanded configuration; the answer is a `QueryResult`, or the fault ``jx9``."""

    script: str


class QueryResult(Struct):
    """The value of JSON that a script returned, and what of it had no effect."""

    value: Any
    warnings: list[str] = []


class LoadModule(Struct):
    """Load a library; the answer is null."""

    library: str


class StartProvider(Struct):
    """Start a provider from an entry such as ``providers`` holds; the answer is its id."""

    spec: dict[str, Any]


class StopProvider(Struct):
    """Stop the provider of this name; the answer is null."""

    name: str


class Add(Struct):
    """Add a pool, or an xstream, from an entry such as ``argobots`` holds; the answer is null."""

    spec: dict[str, Any]


class Remove(Struct):
    """Remove the pool, or the xstream, of this name; the answer is null."""

    name: str


class LookupProvider(Struct):
    """Find a provider by ``name`` or ``type:id``; the answer is a `mochi.bedrock.spec.ProviderHandle`."""

    spec: str
