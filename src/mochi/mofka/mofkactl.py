"""The command ``mofkactl``: topics, partitions, and the providers that legacy partitions need.

What a command prints is on standard output, errors are on standard error. The exit code is 0 when the command did what
it was asked to, 2 for arguments that it does not understand, 255 otherwise.

``--config.a.b VALUE`` adds up to objects: ``true`` and ``false`` are booleans, digits are an integer, digits with one
point a float, all else is text; a key that is repeated has a list.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from diaspora_stream.console.commands import DottedCommand, Failure, Group, version
from diaspora_stream.partition_selector import PartitionSelector
from diaspora_stream.serializer import Serializer
from diaspora_stream.validator import Validator

if TYPE_CHECKING:
    from mochi.mofka.client.driver import MofkaDriver

__all__ = ["main"]

F = TypeVar("F", bound=Callable[..., Any])

PRIMARY = "__primary__"

_DEPENDENCIES = "dependencies"
"""The parameter whose values are names, whatever they look like."""


class _Command(DottedCommand):
    """A command whose dotted options are typed, but for names; a key that is repeated has a list."""

    def put(self, parameter: str, target: dict[str, Any], keys: Sequence[str], text: str) -> None:
        """Put a value into an object, beside those that are there."""
        _put(target, keys, text if parameter == _DEPENDENCIES else typed(text))


def typed(text: str) -> Any:
    """Return the value that the text of a dotted option means, see the module."""
    if text.lower() in ("true", "false") and text[1:].islower():
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)", text):
        return float(text)
    return text


def _put(target: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    *way, last = keys
    for key in way:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise ValueError(f"{key} has a value already, and cannot have fields")
    if last not in target:
        target[last] = value
    elif isinstance(target[last], dict):
        raise ValueError(f"{last} has fields already, and cannot have a value")
    elif isinstance(target[last], list):
        target[last].append(value)
    else:
        target[last] = [target[last], value]


def _range(text: str, least: int) -> tuple[int, int]:
    """Return the two numbers of ``LO,HI``, or twice that of ``N``."""
    found = re.fullmatch(r"(\d+)(?:,(\d+))?", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no number, nor two with a comma between them")
    low, high = int(found[1]), int(found[2] or found[1])
    if not least <= low <= high:
        raise click.BadParameter(f"{text!r}: must be {least} or more, the smaller number first")
    return low, high


def _paths(text: str) -> list[str]:
    paths = [path for path in text.split(",") if path]
    if not paths:
        raise click.BadParameter("names no directory")
    return paths


_group_file = click.option(
    "-g", "--groupfile", default="./mofka.json", show_default=True, metavar="FILE", help="Group file."
)
_rank = click.option(
    "-r", "--rank", type=click.IntRange(0), required=True, metavar="N", help="Server, as in the group file."
)


def _open(groupfile: str) -> "MofkaDriver":
    from mochi.mofka.client.driver import MofkaDriver  # not for a command that only shows its help

    return MofkaDriver(groupfile)


@click.group(cls=Group)
@version
def main() -> None:
    """Manage topics, partitions and storage of a Mofka service."""


def _section(name: str, text: str) -> click.Group:
    return main.group(name, help=text)(lambda: None)


topic = _section("topic", "Topics.")
partition = _section("partition", "Partitions of topics.")
metadata = _section("metadata", "Databases for legacy partitions.")
data = _section("data", "Blob storage for legacy partitions.")
config = _section("config", "Configurations of services.")
benchmark = _section("benchmark", "Configurations of a benchmark that is gone.")


@topic.command(
    "create",
    cls=_Command,
    objects={
        "validator_config": ("validator", "v"),
        "selector_config": ("partition-selector", "p"),
        "serializer_config": ("serializer", "s"),
    },
)
@click.argument("name")
@click.option("-v", "--validator", default="default", show_default=True, metavar="TYPE")
@click.option("-p", "--partition-selector", default="default", show_default=True, metavar="TYPE")
@click.option("-s", "--serializer", default="default", show_default=True, metavar="TYPE")
@_group_file
def create_topic(
    name: str,
    validator: str,
    partition_selector: str,
    serializer: str,
    groupfile: str,
    validator_config: dict[str, Any],
    selector_config: dict[str, Any],
    serializer_config: dict[str, Any],
) -> None:
    """Create the topic NAME, without partitions: `partition add` adds them."""
    checks = Validator.from_metadata(validator, validator_config)
    chooses = PartitionSelector.from_metadata(partition_selector, selector_config)
    writes = Serializer.from_metadata(serializer, serializer_config)
    with _open(groupfile) as driver:
        driver.create_topic(name, validator=checks, partition_selector=chooses, serializer=writes)


@topic.command("list")
@_group_file
def list_topics(groupfile: str) -> None:
    """Print the names of all topics, sorted."""
    with _open(groupfile) as driver:
        for name in sorted(driver.list_topics()):
            click.echo(name)


@partition.command(
    "add", cls=_Command, objects={"config": ("config", "c"), _DEPENDENCIES: (_DEPENDENCIES, "d")}
)
@click.argument("topic")
@_rank
@click.option(
    "-t",
    "--type",
    "kind",
    default="default",
    show_default=True,
    metavar="TYPE",
    help="memory, default, legacy, or one of a module. A default one with -m or -d is legacy.",
)
@click.option("-p", "--pool", default=PRIMARY, show_default=True, metavar="NAME")
@click.option("-m", "--metadata", "database", metavar="NAME[@ADDRESS]", help="Database of a legacy one.")
@click.option("-d", "--data", "target", metavar="NAME[@ADDRESS]", help="Blob storage of a legacy one.")
@click.option("--abt-io", metavar="NAME", help="abt_io provider of a default one.")
@_group_file
def add_partition(
    topic: str,
    rank: int,
    kind: str,
    pool: str,
    database: str | None,
    target: str | None,
    abt_io: str | None,
    groupfile: str,
    config: dict[str, Any],
    dependencies: dict[str, Any],
) -> None:
    """Add a partition to a topic."""
    if kind == "default" and (database or target):
        kind = "legacy"
    options = {
        "--metadata": (database, "legacy"),
        "--data": (target, "legacy"),
        "--abt-io": (abt_io, "default"),
    }
    for option, (name, own) in options.items():
        if name is not None and kind in ("memory", "default", "legacy") and kind != own:
            raise click.UsageError(f"{option} is for partitions of type {own}, not {kind}")
    named = {"pool": pool, "metadata": database, "data": target, "io_controller": abt_io}
    needs = {**{key: name for key, name in named.items() if name is not None}, **dependencies}
    with _open(groupfile) as driver:
        driver.add_custom_partition(topic, rank, kind, config, needs)


_storage = {"config": ("config", "c"), _DEPENDENCIES: (_DEPENDENCIES, "d")}


@metadata.command("add", cls=_Command, objects=_storage)
@_rank
@click.option("-t", "--type", "kind", default="map", show_default=True, metavar="TYPE", help="Of database.")
@_group_file
def add_metadata(
    rank: int, kind: str, groupfile: str, config: dict[str, Any], dependencies: dict[str, Any]
) -> None:
    """Start a database, and print its name."""
    with _open(groupfile) as driver:
        click.echo(driver.add_metadata_provider(rank, kind, config, dependencies))


@data.command("add", cls=_Command, objects=_storage)
@_rank
@click.option("-t", "--type", "kind", default="memory", show_default=True, metavar="TYPE", help="Of target.")
@_group_file
def add_data(
    rank: int, kind: str, groupfile: str, config: dict[str, Any], dependencies: dict[str, Any]
) -> None:
    """Start blob storage, and print its name."""
    with _open(groupfile) as driver:
        click.echo(driver.add_data_provider(rank, kind, config, dependencies))


def _count(*names: str, least: int, text: str) -> Callable[[F], F]:
    return click.option(
        *names,
        metavar="N|LO,HI",
        default="1",
        show_default=True,
        help=text,
        callback=lambda _context, _option, given: _range(given, least),
    )


def _storage_options(function: F) -> F:
    for kind, what in (
        ("data-storage", "Targets"),
        ("metadata-db", "Databases"),
        ("master-db", "Master database"),
    ):
        function = click.option(f"--{kind}-needs-persistence", is_flag=True, help=f"{what} on disk.")(
            function
        )
        function = click.option(
            f"--{kind}-path-prefixes",
            metavar="DIR,...",
            callback=lambda _context, _option, given: _paths(given),
            default="/tmp/mofka",
            show_default=True,
            help=f"{what} below one of these directories, which exist.",
        )(function)
    return function


@config.command("generate")
@click.option("-a", "--address", required=True, help="Where servers listen, such as na+sm.")
@_count("-s", "--num-servers", least=1, text="Servers of the service.")
@_count("-m", "--num-metadata-db-per-proc", least=0, text="Databases for legacy partitions, for each server.")
@_count("-d", "--num-data-storage-per-proc", least=0, text="Targets for legacy partitions, for each server.")
@_storage_options
@_count("-p", "--num-pools-in-servers", least=1, text="Pools of each server.")
@_count("-x", "--num-xstreams-in-servers", least=1, text="Xstreams of each server.")
@click.option("--allow-more-pools-than-xstreams", is_flag=True)
def generate_config(
    master_db_path_prefixes: list[str],
    master_db_needs_persistence: bool,
    metadata_db_path_prefixes: list[str],
    metadata_db_needs_persistence: bool,
    data_storage_path_prefixes: list[str],
    data_storage_needs_persistence: bool,
    **numbers: Any,
) -> None:
    """Print the configuration of a service, chosen at random within these bounds.

    `bedrock -n SERVERS -c FILE` starts it.
    """
    from mochi.mofka.spec import MofkaServiceSpec, Storage

    spec = MofkaServiceSpec(
        **numbers,
        master_db=Storage(master_db_path_prefixes, master_db_needs_persistence),
        metadata_db=Storage(metadata_db_path_prefixes, metadata_db_needs_persistence),
        data_storage=Storage(data_storage_path_prefixes, data_storage_needs_persistence),
    )
    click.echo(json.dumps(spec.sample(), indent=4))


@benchmark.command(
    "generate",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    short_help="Say what to use instead.",
)
def generate_benchmark() -> NoReturn:
    """Fail, and say what to use instead."""
    raise Failure(
        "the program that this configured is gone: use diaspora-producer-benchmark and diaspora-consumer-benchmark"
    )


if __name__ == "__main__":
    main(prog_name="mofkactl")
