"""The command ``mofka-fsck``: checks directories of partitions, and repairs them if asked.

The exit status is 0 if all that was written is there as it was written. A crash may still have left something to do to
whoever opens the directory next. It is 1 if something is damaged or lost; 2 if something could not be checked, or the
command was not understood; 130 after Ctrl-C. With ``--repair`` it is about what is left.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from diaspora_stream.console.commands import INTERRUPTED, Command, version
from mochi.disk import PosixFiles, StorageError
from mochi.mofka.chunks import ASIDE, format
from mochi.mofka.fsck.check import check, is_partition, repair, size_of
from mochi.mofka.fsck.findings import Effect, Finding, Report

_MOST_FINDINGS = 20

_MEANINGS = {
    Effect.PENDING: ("left over", "yellow"),
    Effect.REPAIRABLE: ("damaged", "yellow"),
    Effect.DOUBTFUL: ("doubtful", "magenta"),
    Effect.LOST: ("lost", "red"),
    Effect.REFUSED: ("refused", "red"),
}


@dataclass(slots=True)
class Outcome:
    """What came of a directory: a report of it, or the error that kept it from being checked."""

    directory: str
    report: Report | None = None
    error: str = ""
    repaired: list[Finding] = field(default_factory=list)
    concerned: list[str] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status that the directory alone would give."""
        if self.report is None:
            return 2
        return 0 if self.report.sound and not self.error else 2 if self.error else 1


def partitions_in(files: PosixFiles, path: str) -> list[str]:
    """Return the directories of partitions that a path means: itself, or those named ``<topic>-<uuid>`` in it."""
    if is_partition(files, path):
        return [path]
    names = (name for name in sorted(files.list_directory(path)) if not name.startswith(f"{ASIDE}-"))
    entries = (os.path.join(path, name) for name in names)
    return [
        entry
        for entry in entries
        if any(format.owner_of(entry)) and files.is_directory(entry) and is_partition(files, entry)
    ]


def examine(
    files: PosixFiles,
    directory: str,
    *,
    mend: bool,
    progress: Callable[[int], object],
    say: Callable[[str], None],
) -> Outcome:
    """Check a directory, and repair it if wanted, and check it again then."""
    outcome = Outcome(directory)
    try:
        report = outcome.report = check(files, directory, progress)
        if mend and report.locked:
            outcome.error = f"cannot repair {directory}: {report.locked}"
        elif mend and report.repairable:
            outcome.repaired = [finding for finding in report.findings if finding.repair]
            outcome.concerned = sorted({*report.changes, *(finding.file for finding in outcome.repaired)})
            say(f"{directory}: repairing")
            for finding in outcome.repaired:
                say(f"  {finding.file}: {finding.repair}")
            say(f"  files concerned: {', '.join(outcome.concerned)}")
            repair(files, directory, report)
            outcome.report = check(files, directory, progress)
        elif mend:
            say(f"{directory}: there is nothing that a repair can do")
    except StorageError as error:
        outcome.error = str(error)
    return outcome


@click.command(cls=Command, failure_status=2)
@click.argument("path", type=click.Path(exists=True, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the report in JSON.")
@click.option(
    "--repair", "mend", is_flag=True, help="Do what the report says a repair does; nothing is deleted."
)
@click.option("-v", "--verbose", is_flag=True, help="Show chunks, producers, cursors and all findings.")
@version
def main(path: str, as_json: bool, mend: bool, verbose: bool) -> None:
    """Check the partition in the directory PATH, or all partitions named <topic>-<uuid> in it.

    Everything is read, and compared with checksums where there are some. Nothing is changed without --repair.

    Exit status: 0 sound, 1 damaged, 2 not checked, 130 interrupted.
    """
    files = PosixFiles()
    out = Console(highlight=False, soft_wrap=True, markup=False)
    err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    try:
        directories = partitions_in(files, os.path.abspath(path))
        if not directories:
            raise click.UsageError(
                f"{path} has neither files of a partition nor directories named <topic>-<uuid>"
            )
        outcomes = []
        for directory in directories:
            # What a repair makes is for whom the directory is for.
            its_files = PosixFiles(by_umask=bool(os.stat(directory).st_mode & 0o077))
            with _progress(err, files, directory) as progress:
                outcome = examine(
                    its_files,
                    directory,
                    mend=mend,
                    progress=progress,
                    say=err.print if as_json else out.print,
                )
            outcomes.append(outcome)
            if not as_json:
                _show(out, outcome, verbose)
    except KeyboardInterrupt:
        err.print("interrupted" + ("; a repair may be run again" if mend else ""))
        sys.exit(INTERRUPTED)
    except StorageError as error:
        raise click.UsageError(str(error)) from None
    status = max(outcome.status for outcome in outcomes)
    if as_json:
        click.echo(
            json.dumps({"status": status, "partitions": [_plain(each) for each in outcomes]}, indent=2)
        )
    elif len(outcomes) > 1:
        sound = sum(not outcome.status for outcome in outcomes)
        out.print(f"{sound} of {len(outcomes)} partitions are sound")
    sys.exit(status)


@contextmanager
def _progress(console: Console, files: PosixFiles, directory: str) -> Iterator[Callable[[int], object]]:
    """Show how much has been read, on a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    if not console.is_terminal:
        yield lambda size: None
        return
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(os.path.basename(directory), total=size_of(files, directory))
        yield lambda size: shown.advance(task, size)


def _plain(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON has it."""
    plain: dict[str, Any] = {"directory": outcome.directory, "status": outcome.status}
    if outcome.error:
        plain["error"] = outcome.error
    if outcome.report is not None:
        plain |= asdict(outcome.report)
        plain["producers"] = [
            {"identity": each.identity.hex(), "next": each.next, "first_ids": list(each.first_ids)}
            for each in outcome.report.producers
        ]
    plain["concerned"] = outcome.concerned
    plain["repaired"] = [asdict(finding) for finding in outcome.repaired]
    return plain


def _show(out: Console, outcome: Outcome, verbose: bool) -> None:
    """Print an outcome for people."""
    out.print(outcome.directory, style="bold")
    if (report := outcome.report) is not None:
        for name, text in _facts(report):
            out.print(f"  {name:11} {text}")
        if verbose:
            _show_details(out, report)
        shown = report.findings if verbose else report.findings[:_MOST_FINDINGS]
        for finding in shown:
            label, style = _MEANINGS[finding.effect]
            out.print(f"  {label:11} {_sentence(finding)}", style=style)
            if finding.repair and not report.locked:
                out.print(f"  {'':11} repair: {finding.repair}")
        if len(report.findings) > len(shown):
            out.print(f"  {'':11} and {len(report.findings) - len(shown)} more; -v shows all")
    if outcome.error:
        out.print(f"  not done    {outcome.error}", style="red")
    out.print(f"  {'result':11} {_verdict(outcome)}", style="bold")


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """Return what there is to say of a partition, by name."""
    if any(finding.effect == Effect.REFUSED for finding in report.findings):
        return
    events = f"{report.count}"
    if report.count:
        last = report.first + report.count - 1
        events = f"{report.first} to {last} ({report.count}): {report.verified} verified"
        if report.unverified:
            events += f", {report.unverified} without a checksum"
        if report.lost:
            events += f", {report.lost} lost"
    yield "events", events
    filled = [chunk for chunk in report.chunks if chunk.count]
    size = sum(chunk.metadata_bytes + chunk.data_bytes for chunk in filled)
    yield "chunks", f"{len(filled)} with events, {decimal(size)} of metadata and data"
    if report.first:
        yield (
            "retention",
            f"events before {report.first} have expired; the original must not open it any more",
        )
    if report.foreign:
        yield "written by", "the original, or by nobody yet: there are no journal and no checksums"
    if report.locked:
        yield "in use", f"{report.locked}. What came since its last checkpoint is not checked"
    if report.quarantine:
        names = ", ".join(f"{name} ({decimal(size)})" for name, size in report.quarantine.items())
        yield "quarantine", names


def _show_details(out: Console, report: Report) -> None:
    if report.epoch:
        out.print(f"  {'epoch':11} {report.epoch}")
    if report.others:
        out.print(f"  {'other files':11} {', '.join(report.others)}")
    _show_table(
        out,
        (
            "chunk",
            "first event",
            "events",
            "verified",
            "unverified",
            "lost",
            "metadata",
            "data",
            "last stored",
        ),
        (
            (
                f"{chunk.number:06d}",
                str(chunk.first),
                str(chunk.count),
                str(chunk.verified),
                str(chunk.unverified),
                str(chunk.lost),
                decimal(chunk.metadata_bytes),
                decimal(chunk.data_bytes),
                datetime.fromtimestamp(chunk.time / 1e9, UTC).strftime("%F %H:%M") if chunk.time else "-",
            )
            for chunk in report.chunks
        ),
    )
    if report.producers:
        _show_table(
            out,
            ("producer", "next batch", "last batch's first event"),
            ((each.identity.hex(), str(each.next), str(each.first_ids[-1])) for each in report.producers),
        )
    if report.cursors:
        _show_table(
            out,
            ("consumer", "next event"),
            (
                (name.encode("utf-8", "backslashreplace").decode(), str(following))
                for name, following in sorted(report.cursors.items())
            ),
        )


def _show_table(out: Console, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; where nobody looks, as fields that tabulators part."""
    if not out.is_terminal:
        for row in (header, *rows):
            click.echo("\t".join(("", *row)))
        return
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _sentence(finding: Finding) -> str:
    """Say what was found, where, and of which events."""
    where = f" (bytes {finding.begin} to {finding.end})" if finding.end > finding.begin else ""
    events = ""
    if finding.count:
        last = finding.first + finding.count - 1
        events = f"; event {last}" if finding.count == 1 else f"; events {finding.first} to {last}"
    subject = "" if finding.effect == Effect.REFUSED else f"{finding.file}{where} "
    return f"{subject}{finding.problem}{events}"


def _verdict(outcome: Outcome) -> str:
    report = outcome.report
    if report is None:
        return "not checked"
    if outcome.error:
        return "not repaired"
    if any(finding.effect == Effect.REFUSED for finding in report.findings):
        return "damaged; a server refuses to open it, and a repair changes nothing"
    if report.sound:
        return "sound" if not report.findings else "sound, once what a crash has left over is dealt with"
    if report.lost:
        return f"damaged: of {report.count} events {report.lost} cannot be read"
    return "damaged, but all events can be read"
