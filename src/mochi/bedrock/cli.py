"""The commands ``bedrock``, ``bedrock-query`` and ``bedrock-shutdown``.

A command that fails says why in one line on standard error for each thing that failed, and exits with
`FAILURE`; tracebacks appear at the levels ``debug`` and ``trace`` only.
"""

import importlib
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click
from msgspec.structs import replace

from diaspora_stream.console import logs
from diaspora_stream.console.commands import Command, Failure, Level, version
from mochi.bedrock.client import BedrockClient, answers, ask_all
from mochi.bedrock.config import FileMode, parse
from mochi.bedrock.errors import BedrockError
from mochi.bedrock.mpi import launched, meet
from mochi.bedrock.peers import Alone, Peers, Returning
from mochi.bedrock.rpc import ENGINE_ID
from mochi.bedrock.server import Deployment
from mochi.bedrock.sources import from_json, from_jx9, from_toml
from mochi.bedrock.spec import World
from mochi.bedrock.supervisor import supervise
from mochi.margo import deployment
from mochi.margo.address import canonical
from mochi.margo.address import protocol as protocol_of
from mochi.margo.client import Client
from mochi.margo.errors import ConfigError, MargoError
from mochi.margo.paths import read_small

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

FAILURE = 255

VIEW_TIMEOUT = 5.0
"""Seconds that a member has to tell where the others are."""

log = logging.getLogger(__name__)


def _log_to(stream: TextIO, level: str) -> None:
    def is_terminal(stream: TextIO) -> bool:
        return stream.isatty() and launched() is None  # mpirun gives its processes terminals that are none

    logs.start(stream, level, colored=is_terminal(stream))
    deployment.log.handlers = [logs.handler(sys.stderr, level, colored=is_terminal(sys.stderr))]
    deployment.log.propagate = False
    logging.raiseExceptions = False


def _complain(problem: object) -> None:
    click.echo(f"error: {' '.join(str(problem).split())}", err=True)


def _level_option(default: str) -> Callable[[F], F]:
    return click.option(
        "-v",
        "--verbose",
        type=Level(),
        default=default,
        help="Log level.",
        show_default=True,
    )


_command = partial(click.command, cls=Command, usage_status=1, failure_status=FAILURE, prefix="error")


@_command()
@click.argument("address", default="")
@click.option("-c", "--config", "path", metavar="FILE", help="Configuration file, in JSON.")
@click.option("--stdin", is_flag=True, help="Read the configuration from standard input.")
@click.option("-t", "--toml", is_flag=True, help="The configuration is in TOML.")
@click.option("-j", "--jx9", is_flag=True, help="The configuration is what a Jx9 script returns.")
@click.option("--jx9-context", metavar="X=1,Y=2", help="Variables for the script, their values in JSON.")
@click.option("-o", "--output-config", metavar="FILE", help="Write the expanded configuration there.")
@click.option("-n", "--processes", type=click.IntRange(1), metavar="N", help="Start N servers on this node.")
@click.option("--rank", type=click.IntRange(0), metavar="K", help="Start server K of --size again, alone.")
@click.option(
    "--size", type=click.IntRange(1), metavar="N", help="Number of servers of the service, with --rank."
)
@click.option(
    "--ready-fd",
    type=click.IntRange(3),
    metavar="N",
    help="Write the address to this file descriptor, and close it, when all servers are complete.",
)
@click.option(
    "--file-mode",
    type=click.Choice(["owner", "umask"]),
    help="Who may use the files of partitions and databases: their owner alone, the default, or whom the umask lets. "
    "Wins over bedrock.file_mode of the configuration.",
)
@_level_option("info")
@version
def bedrock(
    address: str,
    path: str | None,
    stdin: bool,
    toml: bool,
    jx9: bool,
    jx9_context: str | None,
    output_config: str | None,
    processes: int | None,
    rank: int | None,
    size: int | None,
    ready_fd: int | None,
    file_mode: FileMode | None,
    verbose: str,
) -> None:
    """Start a server at ADDRESS: a protocol such as na+sm or tcp, or a full address.

    Without ADDRESS, the configuration says where to listen, in margo.mercury.address. Under mpirun, or with -n, several
    servers become one service.
    """
    _log_to(sys.stdout, verbose)
    if path is not None and stdin:
        raise Failure("-c and --stdin exclude each other")
    if jx9 and toml:
        raise Failure("--jx9 and --toml exclude each other")
    if jx9_context is not None and not jx9:
        raise Failure("--jx9-context needs --jx9")
    if (rank is None) != (size is None):
        raise Failure("--rank and --size need each other")
    if rank is not None and size is not None and rank >= size:
        raise Failure(f"--rank {rank} is not one of 0 to {size - 1}, the ranks of --size {size}")
    if rank is not None and processes is not None:
        raise Failure("-n starts all servers, --rank one of them")
    if ready_fd is not None:
        try:
            os.fstat(ready_fd)
        except OSError as error:
            raise Failure(
                f"--ready-fd {ready_fd}: {error.strerror}; in a shell, {ready_fd}>FILE opens it"
            ) from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _allow_open_files()
    read = cache(partial(_read, path, stdin))
    with _failing():
        context = _context(jx9_context or "")

    def serve(peers: Peers) -> int:
        text, source = read()
        world = World.unknown(peers.rank, peers.size)
        if toml:
            document = from_toml(text, source)
        elif jx9:
            document = from_jx9(text, source, context, world)
        else:
            document = from_json(text, source)
        deployment.log.disabled = not peers.speaks  # what is wrong in the configuration is so for all
        config = parse(document, world)
        deployment.log.disabled = False
        if file_mode is not None:
            config = replace(config, file_mode=file_mode)
        server = Deployment(config, address or None, peers=peers)
        return _serve(server, output_config, partial(_tell, ready_fd, peers.speaks))

    if processes is not None:
        with _failing():
            read()
        sys.exit(0 if supervise(processes, partial(_among, serve), ready_fd) else FAILURE)
    with _failing():
        peers: Peers = Alone() if rank is None or size is None else Returning(rank, size)
        if rank is None and (launch := launched()) is not None:
            peers = meet(*launch, lambda: read()[0]) or peers
    sys.exit(_among(serve, peers))


def _among(serve: Callable[[Peers], int], peers: Peers) -> int:
    """Be one of several servers: if one of them fails, the others are told."""
    with _failing(peers):
        return serve(peers)
    raise AssertionError("unreachable")


@contextmanager
def _failing(peers: Peers | None = None) -> Iterator[None]:
    """End the program where something goes wrong, with one line; have the other processes end as well."""
    try:
        yield
        return
    except KeyboardInterrupt:
        _complain("interrupted before the server was ready")
        if peers is not None:
            peers.abandon()
        sys.exit(FAILURE)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    except MargoError as error:
        problem = str(error)
    _complain(problem)
    if peers is not None:
        peers.fail(problem)
        peers.close()
    sys.exit(FAILURE)


def _allow_open_files() -> None:
    """Have as many connections and files as the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("no more than %d files and connections can be open at a time: %s", soft, error)


def _context(text: str) -> dict[str, Any]:
    """Return the variables that ``x=1,y=2`` names."""
    context = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError("--jx9-context", f'expected NAME=VALUE, as in x=1,y=2; found "{pair}"')
        context[name] = from_json(value.encode(), f"--jx9-context {name}")
    return context


def _read(path: str | None, stdin: bool) -> tuple[bytes, str]:
    """Return the text of the configuration, and what to call it."""
    if stdin:
        return sys.stdin.buffer.read(), "standard input"
    if path is None:
        return b"{}", "configuration"
    return read_small(path, pipes=True), path


def _serve(server: Deployment, output_config: str | None, tell: Callable[[str], None]) -> int:
    def watch_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            server.engine.loop.add_signal_handler(number, server.finalize)

    def announce() -> None:
        if output_config is not None:
            with open(_of_rank(output_config, server.world), "w") as file:
                json.dump(server.config(), file, separators=(",", ":"))
        log.info("Bedrock daemon now running at %s", server.address)
        tell(server.address)

    # On the loop, which must run already when its signal handlers are set: what comes before is lost.
    server.engine.call_soon(watch_signals)
    return server.run(announce)


def _tell(fd: int | None, speaks: bool, address: str) -> None:
    """Say on a descriptor that all servers are complete, and close it; one of them speaks."""
    if fd is None:
        return
    try:
        with open(fd, "w") as told:
            told.write(f"{address}\n" if speaks else "")
    except OSError as error:
        log.warning("--ready-fd %d: %s", fd, error.strerror)


def _of_rank(path: str, world: World) -> str:
    """Return a path of its own for each of several processes: ``name.<rank>.json``."""
    return path if world.size == 1 else str(Path(path).with_suffix(f".{world.rank}{Path(path).suffix}"))


def _service_options(function: F) -> F:
    """Add the options by which a command finds the servers of a service."""
    for option in (
        version,
        _level_option("warning"),
        click.option(
            "-f",
            "--flock-file",
            metavar="FILE",
            help="Group file: its token, and all its members where no -a or --rank says which.",
        ),
        click.option("-a", "--addresses", metavar="ADDR", multiple=True, help="Address; may be repeated."),
        click.option(
            "--rank",
            "ranks",
            type=click.IntRange(0),
            metavar="K",
            multiple=True,
            help="Rank of a member of the group file; may be repeated.",
        ),
        click.argument("protocol"),
    ):
        function = option(function)
    return function


def _members(
    client: Client,
    protocol: str,
    addresses: Iterable[str],
    ranks: Iterable[int],
    flock_file: str | None,
    patience: float,
) -> list[str]:
    """Return the distinct addresses that a command names, and give the client the service's token.

    A group file, which is waited for `patience` seconds, names all its members where nothing else names any, but not
    those who have ended in good order.

    Raises
    ------
    MargoError
        No server is named, or none of the group file is running.
    """
    found = dict.fromkeys(map(canonical, addresses))
    wanted = list(ranks)
    if flock_file is None and (wanted or not found):
        hint = "; a group file is given with -f" if os.path.exists(protocol) else ""
        raise BedrockError(f"no server named; give {'-f' if wanted else '-a or -f'}{hint}")
    if flock_file is not None:
        view = importlib.import_module("mochi.flock.group_file").read_within(flock_file, patience)
        if wanted or not found:
            view = _as_members_tell(client, view)
        by_rank = {rank: address for address, rank in view.ranks.items()}
        for rank in wanted:
            if rank not in by_rank:
                raise BedrockError(f"{flock_file}: no member has rank {rank}; there are {sorted(by_rank)}")
            found[by_rank[rank]] = None
        if not found:
            for member in view.members:
                if member.ended:
                    log.info("%s has ended", member.address)
                else:
                    found[member.address] = None
        if not found:
            raise BedrockError(f"{flock_file}: all servers of the group have ended")
        for address in found:
            if view.token is not None:
                client.set_token(address, view.token, view.ranks.get(address))
    for spoken in sorted({protocol_of(address) for address in found} - {protocol_of(protocol)}):
        log.warning("the service speaks %s, not %s: using %s", spoken, protocol, spoken)
    return list(found)


def _as_members_tell(client: Client, view: Any) -> Any:
    """Return the view of the first member that answers, of whom the file may be a copy that is out of date."""
    flock = importlib.import_module("mochi.flock.client").FlockClient(client)
    providers = {member.address: member.provider_id for member in view.members if not member.ended}
    for address, rank in view.ranks.items():
        if view.token is not None:
            client.set_token(address, view.token, rank)
    for _, told in answers(list(providers), lambda a: flock.view(a, providers[a], timeout=VIEW_TIMEOUT)):
        if not isinstance(told, MargoError):
            return told if view.token is None else told.with_token(view.token)
    return view


def _ask_all(addresses: list[str], question: Callable[[str], R]) -> tuple[dict[str, R], bool]:
    """Ask all servers, and complain of those that do not answer; return the answers, and whether all did."""
    outcomes = ask_all(addresses, question)
    for address, outcome in outcomes.items():
        if isinstance(outcome, MargoError):
            _complain(outcome if address in str(outcome) else f"{address}: {outcome}")
    answers = {a: outcome for a, outcome in outcomes.items() if not isinstance(outcome, MargoError)}
    return answers, len(answers) == len(addresses)


@_command()
@_service_options
@click.option(
    "-i",
    "--provider-id",
    type=click.IntRange(0, ENGINE_ID - 1),
    help="Provider id of bedrock; without, whichever it has.",
)
@click.option("-j", "--jx9-file", metavar="FILE", help="Ask what this Jx9 script returns at each server.")
@click.option("-p", "--pretty", is_flag=True, help="Indent the output.")
@click.option(
    "-w",
    "--wait",
    type=click.FloatRange(0),
    metavar="SECONDS",
    default=5,
    help="How long to wait for a group file that is not there yet.",
    show_default=True,
)
def query(
    protocol: str,
    addresses: tuple[str, ...],
    ranks: tuple[int, ...],
    flock_file: str | None,
    provider_id: int | None,
    jx9_file: str | None,
    pretty: bool,
    wait: float,
    verbose: str,
) -> None:
    """Print the configuration of each server as one JSON object, by address.

    A script sees the configuration as $__config__, and what it returns is printed instead. Servers that do not
    answer are reported on standard error, and the exit code then is 255.
    """
    _log_to(sys.stderr, verbose)
    client = Client()
    bedrocks = BedrockClient(client, provider_id=ENGINE_ID if provider_id is None else provider_id)
    try:
        script = None if jx9_file is None else read_small(jx9_file, pipes=True).decode()
    except UnicodeDecodeError as error:
        raise Failure(f"{jx9_file}: not UTF-8, at byte {error.start}") from None
    members = _members(client, protocol, addresses, ranks, flock_file, wait)
    question = bedrocks.config if script is None else partial(bedrocks.query, script=script)
    answers, is_complete = _ask_all(members, question)
    layout: dict[str, Any] = {"indent": 4} if pretty else {"separators": (",", ":")}
    click.echo(json.dumps(answers, sort_keys=True, ensure_ascii=False, **layout))
    sys.exit(0 if is_complete else FAILURE)


@_command()
@_service_options
def shutdown(
    protocol: str, addresses: tuple[str, ...], ranks: tuple[int, ...], flock_file: str | None, verbose: str
) -> None:
    """Stop servers, all at the same time.

    Servers that could not be told are reported on standard error, and the exit code then is 255.
    """
    _log_to(sys.stderr, verbose)
    client = Client()
    members = _members(client, protocol, addresses, ranks, flock_file, 0)
    _, is_complete = _ask_all(members, BedrockClient(client).shutdown)
    sys.exit(0 if is_complete else FAILURE)
