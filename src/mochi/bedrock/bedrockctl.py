"""The command ``bedrockctl``: servers looked at, and changed while they run.

It acts upon all servers of the connection, side by side; one that fails does not keep the others from being changed.
"""

import json
import os
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import click

from diaspora_stream.console.commands import Failure, Group, version
from mochi.bedrock.client import Client, ServiceHandle, ask_all
from mochi.bedrock.errors import BedrockError
from mochi.margo.address import parse
from mochi.margo.client import Client as MargoClient
from mochi.margo.errors import MargoError

__all__ = ["main"]

CONNECTION = "BEDROCKCTL_CONNECTION"

_FLOCK = "flock://"


class _Service:
    """The servers that a command acts upon."""

    def __init__(self, connection: str | None, ranks: tuple[int, ...]) -> None:
        if not connection:
            raise BedrockError(f"no connection; give -c, or set {CONNECTION}, as bedrockctl activate says")
        client = Client(MargoClient())
        if connection.startswith(_FLOCK):
            members = list(client.make_service_group_handle_from_flock(connection.removeprefix(_FLOCK)))
        else:
            members = [client.make_service_handle(connection)]
        for rank in ranks:
            if rank >= len(members):
                raise BedrockError(f"there is no rank {rank}, the service has ranks 0 to {len(members) - 1}")
        self._handles = {handle.address: handle for handle in ([members[rank] for rank in ranks] or members)}

    def ask(self, question: Callable[[ServiceHandle], Any], show: Callable[[dict[str, Any]], None]) -> None:
        """Show what servers answer, by address, and the errors of the others; `Failure` if there are any."""
        answers = ask_all(self._handles, lambda address: question(self._handles[address]))
        found = {}
        for address, answer in answers.items():
            if isinstance(answer, MargoError):
                click.echo(f"Error: {address}: {answer}", err=True)
            else:
                found[address] = answer
        show(found)
        if missing := len(answers) - len(found):
            raise Failure(f"{missing} of {len(answers)} servers did not do it")

    def tell(self, change: Callable[[ServiceHandle], Any], shown: Callable[[Any], Iterable[str]]) -> None:
        """Print what each server answers, a line for each text; errors as `ask`."""

        def show(answers: dict[str, Any]) -> None:
            for address, answer in answers.items():
                for line in shown(answer):
                    click.echo(f"{address} {line}")

        self.ask(change, show)

    def change(self, change: Callable[[ServiceHandle], Any]) -> None:
        """Have each server changed, without a word where that succeeds."""
        self.tell(change, lambda _: ())


@click.group(cls=Group)
@click.option(
    "-c",
    "--connection",
    envvar=CONNECTION,
    metavar="CONNECTION",
    help="flock://FILE, or the address of a server.",
)
@click.option(
    "-r",
    "--rank",
    "ranks",
    type=click.IntRange(0),
    multiple=True,
    metavar="N",
    help="Only this server; repeatable.",
)
@version
@click.pass_context
def main(context: click.Context, connection: str | None, ranks: tuple[int, ...]) -> None:
    """Look at the servers of a service, and change them while they run."""
    context.obj = lambda: _Service(connection, ranks)


_servers = click.pass_obj


def _section(name: str, text: str) -> click.Group:
    return main.group(name, help=text)(lambda: None)


pool = _section("pool", "Pools.")
xstream = _section("xstream", "Xstreams.")
module = _section("module", "Modules.")
provider = _section("provider", "Providers.")


@main.command()
@click.argument("connection")
def activate(connection: str) -> None:
    """Print the line by which a shell has CONNECTION: eval "$(bedrockctl activate flock://mofka.json)"."""
    if connection.startswith(_FLOCK):
        path = os.path.abspath(connection.removeprefix(_FLOCK))
        if not os.path.exists(path):
            raise BedrockError(f"{path}: no such file")
        connection = _FLOCK + path
    else:
        parse(connection)
    click.echo(f"export {CONNECTION}={shlex.quote(connection)}")


@main.command()
@_servers
def status(servers: Any) -> None:
    """Say of each server whether it runs."""
    servers().tell(lambda handle: handle.config, lambda _: ["is running"])


@main.command()
@_servers
def show(servers: Any) -> None:
    """Print the configurations of the servers as one JSON object."""
    servers().ask(
        lambda handle: handle.config,
        lambda configs: click.echo(json.dumps(configs, indent=4, sort_keys=True)),
    )


@pool.command("list")
@_servers
def list_pools(servers: Any) -> None:
    """Print the name, kind and access of each pool."""
    servers().tell(
        lambda handle: handle.config["margo"]["argobots"]["pools"],
        lambda pools: [f"{each['name']} {each['kind']} {each['access']}" for each in pools],
    )


@pool.command("create")
@click.argument("name")
@click.option("-k", "--kind", default="fifo_wait", show_default=True)
@click.option("-a", "--access", default="mpmc", show_default=True)
@_servers
def create_pool(servers: Any, name: str, kind: str, access: str) -> None:
    """Add a pool."""
    servers().change(lambda handle: handle.add_pool({"name": name, "kind": kind, "access": access}))


@pool.command("remove")
@click.argument("name")
@_servers
def remove_pool(servers: Any, name: str) -> None:
    """Remove a pool that nothing uses."""
    servers().change(lambda handle: handle.remove_pool(name))


@xstream.command("list")
@_servers
def list_xstreams(servers: Any) -> None:
    """Print the name, scheduler and pools of each xstream."""
    servers().tell(
        lambda handle: handle.config["margo"]["argobots"]["xstreams"],
        lambda xstreams: [
            f"{each['name']} {each['scheduler']['type']} {','.join(map(str, each['scheduler']['pools']))}"
            for each in xstreams
        ],
    )


@xstream.command("create")
@click.argument("name")
@click.option("-s", "--scheduler", default="basic_wait", show_default=True)
@click.option(
    "-p", "--pool", "pools", multiple=True, required=True, metavar="NAME", help="To serve; repeatable."
)
@_servers
def create_xstream(servers: Any, name: str, scheduler: str, pools: tuple[str, ...]) -> None:
    """Start an xstream."""
    description = {"name": name, "scheduler": {"type": scheduler, "pools": list(pools)}}
    servers().change(lambda handle: handle.add_xstream(description))


@xstream.command("remove")
@click.argument("name")
@_servers
def remove_xstream(servers: Any, name: str) -> None:
    """Have an xstream end that nothing needs."""
    servers().change(lambda handle: handle.remove_xstream(name))


@module.command("list")
@_servers
def list_modules(servers: Any) -> None:
    """Print the libraries that are loaded."""
    servers().tell(lambda handle: handle.config["libraries"], lambda libraries: libraries)


@module.command("load")
@click.argument("library")
@_servers
def load_module(servers: Any, library: str) -> None:
    """Load a library."""
    servers().change(lambda handle: handle.load_module(library))


@provider.command("list")
@_servers
def list_providers(servers: Any) -> None:
    """Print the name of each provider, and its type and id."""
    servers().tell(
        lambda handle: handle.config["providers"],
        lambda providers: [f"{each['name']} {each['type']}:{each['provider_id']}" for each in providers],
    )


def _pairs(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """Return dependencies: of a name that is repeated, a list."""
    found: dict[str, list[str]] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _json(_context: click.Context, _option: click.Parameter, given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}") from None


@provider.command("create")
@click.argument("name")
@click.argument("type")
@click.option(
    "-i",
    "--provider-id",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="The lowest free one if not given.",
)
@click.option("-C", "--config", default="{}", show_default=True, metavar="JSON", callback=_json)
@click.option("-d", "--dependency", "dependencies", multiple=True, metavar="NAME=VALUE", callback=_pairs)
@click.option("-t", "--tag", "tags", multiple=True, metavar="TEXT", help="Repeatable.")
@_servers
def create_provider(
    servers: Any,
    name: str,
    type: str,
    provider_id: int | None,
    config: Any,
    dependencies: dict[str, Any],
    tags: tuple[str, ...],
) -> None:
    """Start a provider, and print its id."""
    description = {
        "name": name,
        "type": type,
        "config": config,
        "dependencies": dependencies,
        "tags": list(tags),
        **({} if provider_id is None else {"provider_id": provider_id}),
    }
    servers().tell(lambda handle: handle.add_provider(description), lambda number: [str(number)])


@provider.command("remove")
@click.argument("name")
@_servers
def remove_provider(servers: Any, name: str) -> None:
    """Stop a provider that no other depends on."""
    servers().change(lambda handle: handle.remove_provider(name))


if __name__ == "__main__":
    main(prog_name="bedrockctl")
