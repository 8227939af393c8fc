"""The command ``margo-info``: which forms of address start on this machine, and why the others do not.

Each form that a server may be given is really tried: listened on, connected to, and given up again.
"""

import json
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import click

from diaspora_stream.console.commands import Command, version
from mochi.margo import fabric, transport
from mochi.margo.address import TcpAddress, parse
from mochi.margo.errors import AddressError
from mochi.margo.fabric.selftest import selftest

SECONDS = 5.0
"""How long a connection to oneself may take."""


class Form(NamedTuple):
    """A form of address."""

    addr: str
    xport: str
    proto: str
    desc: str


FORMS = (
    Form("ofi+tcp://", "ofi", "tcp", "TCP sockets"),
    Form("ofi+verbs://", "ofi", "verbs", "InfiniBand and RoCE by libfabric"),
    Form("ofi+shm://", "ofi", "shm", "shared memory by libfabric"),
    Form("ofi+sockets://", "ofi", "sockets", "sockets by libfabric"),
    Form("ofi+psm2://", "ofi", "psm2", "Omni-Path by libfabric"),
    Form("ofi+opx://", "ofi", "opx", "Omni-Path Express by libfabric"),
    Form("ofi+gni://", "ofi", "gni", "Cray Aries by libfabric"),
    Form("ofi+cxi://", "ofi", "cxi", "HPE Slingshot by libfabric"),
    Form("psm+psm://", "psm", "psm", "TrueScale by PSM"),
    Form("psm2+psm2://", "psm2", "psm2", "Omni-Path by PSM2"),
    Form("na+sm://", "na", "sm", "shared memory on one node"),
    Form("bmi+tcp://", "bmi", "tcp", "TCP by BMI"),
    Form("ucx+tcp://", "ucx", "tcp", "TCP by UCX"),
    Form("ucx+rc://", "ucx", "rc", "InfiniBand, reliable connections, by UCX"),
    Form("ucx+ud://", "ucx", "ud", "InfiniBand, unreliable datagrams, by UCX"),
    Form("ucx+dc://", "ucx", "dc", "InfiniBand, dynamic connections, by UCX"),
    Form("ucx+all://", "ucx", "all", "whatever UCX chooses"),
    Form("tcp://", "<any>", "tcp", "TCP, by any transport"),
    Form("verbs://", "<any>", "verbs", "InfiniBand and RoCE, by any transport"),
    Form("sm://", "<any>", "sm", "shared memory, by any transport"),
    Form("psm2://", "<any>", "psm2", "Omni-Path, by any transport"),
    Form("ofi+efa://", "ofi", "efa", "Amazon's EFA by libfabric"),
    Form("ofi+tcp;ofi_rxm://", "ofi", "tcp;ofi_rxm", "TCP by libfabric, a stand-in for network cards"),
)


class Trial(NamedTuple):
    """What came of a form: an address at which a server would listen, or the reason why there is none."""

    form: Form
    address: str | None
    reason: str


def try_form(form: Form) -> Trial:
    """Listen on an address, connect to it, and leave nothing behind."""
    try:
        listener, address = transport.listen(form.addr)
        with listener:
            transport.connect(address, SECONDS).close()
            plane = fabric.start(form.addr, address)
            if plane is not None:
                plane.close()
    except AddressError as error:
        return Trial(form, None, str(error))
    return Trial(form, address, "")


def _given(address: str) -> Form:
    """Return the form of an address that was asked for."""
    name, _, rest = address.partition("://")
    for form in FORMS:
        if form.addr == f"{name}://":
            return form._replace(addr=f"{name}://{rest}")
    xport, _, proto = name.rpartition("+")
    return Form(address, xport or "<any>", proto, "as given")


def _record(index: int, trial: Trial) -> dict[str, Any]:
    form, address, reason = trial
    return {
        "index": index,
        "addr": form.addr,
        "xport": form.xport,
        "proto": form.proto,
        "desc": form.desc,
        "result": "NO" if address is None else "YES",
        "example_runtime_addr": address or "N/A",
        "reason": reason,
    }


def _show(record: dict[str, Any]) -> None:
    works = record["result"] == "YES"
    columns = ("addr", "xport", "proto", "result", "example_runtime_addr")
    click.echo(f"### {record['desc']} ###")
    click.secho("\t".join(record[column] for column in columns), fg="green" if works else "red")
    if not works:
        click.echo(f"  {record['reason']}")


@click.command(cls=Command, usage_status=1, failure_status=1, prefix="error")
@click.argument("address", default="")
@click.option("-l", "--libraries", is_flag=True, help="List what the libfabric of this machine offers.")
@click.option("-o", "--output", metavar="FILE", help="Write the results there, in JSON.")
@click.option(
    "--selftest",
    "selftest_address",
    metavar="ADDRESS",
    help="Try the fabric of an address in full, and report.",
)
@version
def main(address: str, libraries: bool, output: str | None, selftest_address: str | None) -> None:
    """Try each form of address, or ADDRESS alone, and say which ones a server can be started with here."""
    if selftest_address is not None:
        _test_fabric(selftest_address)
    trials = [try_form(form) for form in ([_given(address)] if address else FORMS)]
    records = [_record(index, trial) for index, trial in enumerate(trials)]
    click.echo(
        f"# Address forms on {socket.gethostname()}: addr, transport, protocol, works, example address\n"
    )
    for result in ("YES", "NO"):
        for record in records:
            if record["result"] == result:
                _show(record)
    click.echo(
        "\nAn address may carry more than the form, such as tcp://eth0 or tcp://10.0.0.1:4000; na+sm reaches this "
        "node only.\nCommands that help: ip address; ss -ltn; fi_info, if libfabric is installed."
    )
    if libraries:
        click.echo()
        _show_libfabric()
    if output is not None:
        Path(output).write_text(json.dumps(records, indent=2) + "\n")
        click.echo(f"Results: {output}")
    sys.exit(0 if any(trial.address for trial in trials) else 1)


def _show_libfabric() -> None:
    try:
        library = fabric.load()
    except fabric.FabricError as error:
        click.echo(f"libfabric: none ({error})")
        return
    major, minor = library.version
    click.echo(f"libfabric: {library.path}, version {major}.{minor}")
    for provider, domains in library.providers().items():
        click.echo(f"  {provider}: {', '.join(domains)}")


def _test_fabric(address: str) -> None:
    """Try the fabric of an address in full, print a report, and exit with 0 if it has passed, else 1."""
    try:
        parsed = parse(address)
        if not isinstance(parsed, TcpAddress) or not parsed.fabric:
            raise AddressError(f"address {address!r} names no fabric; ofi+verbs, ofi+cxi or ofi+efa do")
        report = selftest(parsed)
    except (AddressError, fabric.FabricError) as error:
        report = {"passed": False, "problems": [str(error)]}
    click.echo(json.dumps({"mofka": metadata.version("mofka"), "address": address} | report, indent=2))
    sys.exit(0 if report["passed"] else 1)
