"""The command ``margo-info``: which forms of address start on this machine, and why the others do not.

Each form that a server may be given is really tried: listened on, connected to, and given up again.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from diaspora_stream.console.commands import Command, version
from mochi.margo import transport
from mochi.margo.errors import AddressError
from mochi.margo.libfabric import Libfabric

SECONDS = 5.0
"""How long a connection to oneself may take."""

_FABRIC = "needs a transport on libfabric, which this version of Mofka does not have; use ofi+tcp"
_RETIRED = "the library is no longer developed, and Mofka has no transport on it; use ofi+tcp"
_UCX = "Mofka has no transport on UCX; use ofi+tcp"


class Form(NamedTuple):
    """A form of address. `missing` says what it lacks in every case; None: it is one of ours."""

    addr: str
    xport: str
    proto: str
    desc: str
    missing: str | None = None


FORMS = (
    Form("ofi+tcp://", "ofi", "tcp", "TCP sockets"),
    Form("ofi+verbs://", "ofi", "verbs", "InfiniBand and RoCE by libfabric", _FABRIC),
    Form("ofi+shm://", "ofi", "shm", "shared memory by libfabric", "not a transport of Mofka; use na+sm"),
    Form("ofi+sockets://", "ofi", "sockets", "sockets by libfabric", "not a transport of Mofka; use ofi+tcp"),
    Form("ofi+psm2://", "ofi", "psm2", "Omni-Path by libfabric", _FABRIC),
    Form("ofi+opx://", "ofi", "opx", "Omni-Path Express by libfabric", _FABRIC),
    Form("ofi+gni://", "ofi", "gni", "Cray Aries by libfabric", _RETIRED),
    Form("ofi+cxi://", "ofi", "cxi", "HPE Slingshot by libfabric", _FABRIC),
    Form("psm+psm://", "psm", "psm", "TrueScale by PSM", _RETIRED),
    Form("psm2+psm2://", "psm2", "psm2", "Omni-Path by PSM2", _RETIRED),
    Form("na+sm://", "na", "sm", "shared memory on one node"),
    Form("bmi+tcp://", "bmi", "tcp", "TCP by BMI", _RETIRED),
    Form("ucx+tcp://", "ucx", "tcp", "TCP by UCX", _UCX),
    Form("ucx+rc://", "ucx", "rc", "InfiniBand, reliable connections, by UCX", _UCX),
    Form("ucx+ud://", "ucx", "ud", "InfiniBand, unreliable datagrams, by UCX", _UCX),
    Form("ucx+dc://", "ucx", "dc", "InfiniBand, dynamic connections, by UCX", _UCX),
    Form("ucx+all://", "ucx", "all", "whatever UCX chooses", _UCX),
    Form("tcp://", "<any>", "tcp", "TCP, by any transport"),
    Form("verbs://", "<any>", "verbs", "InfiniBand and RoCE, by any transport", _FABRIC),
    Form("sm://", "<any>", "sm", "shared memory, by any transport"),
    Form("psm2://", "<any>", "psm2", "Omni-Path, by any transport", _FABRIC),
)


class Trial(NamedTuple):
    """What came of a form: an address at which a server would listen, or the reason why there is none."""

    form: Form
    address: str | None
    reason: str


def try_form(form: Form) -> Trial:
    """Listen on an address, connect to it, and leave nothing behind."""
    if form.missing is not None:
        return Trial(form, None, form.missing)
    try:
        listener, address = transport.listen(form.addr)
        with listener:
            transport.connect(address, SECONDS).close()
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
@version
def main(address: str, libraries: bool, output: str | None) -> None:
    """Try each form of address, or ADDRESS alone, and say which ones a server can be started with here."""
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
        library = Libfabric.load()
    except OSError as error:
        click.echo(f"libfabric: none ({error})")
        return
    major, minor = library.version
    click.echo(f"libfabric: {library.path}, version {major}.{minor}; Mofka does not use it yet")
    try:
        offers = library.offers()
    except OSError as error:
        click.echo(f"  nothing on offer ({error.strerror})")
        return
    for provider, domains in offers.items():
        click.echo(f"  {provider}: {', '.join(domains)}")
