"""Checking a partition's directory: what it holds, what of it is not as it was written, and what can be done.

Recovery does its work over an `Overlay`, which changes nothing and tells what it would change; then all that it found
is read (`chunk_check`). So a check and a server that opens the directory cannot be of different minds.

`repair` lets recovery do the same to the directory itself, and has index and descriptors that contradict the seals made
again. It makes up nothing: what is lost stays so.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mochi.disk import Cut, FileLayer, Overlay, PosixFiles
from mochi.mofka.chunks import CorruptPartition, PartitionLocked, format, recovery
from mochi.mofka.fsck.chunk_check import FROM_SEALS, PIECE, ChunkCheck, Progress, size_of_file
from mochi.mofka.fsck.findings import Effect, Finding, Report


def is_partition(files: FileLayer, directory: str) -> bool:
    """Tell whether a directory is a partition's: by its files, or, if there are none, by its name."""
    names = files.list_directory(directory)
    if not names:
        return any(format.owner_of(directory))
    return any(map(format.belongs, names))


def _is_ours(name: str) -> bool:
    """Tell whether the original has no files of this name."""
    return name.startswith(format.OWN_PREFIX) or (format.parse_file_name(name) or (0, ""))[1] == format.SEALS


def size_of(files: FileLayer, directory: str) -> int:
    """Return how many bytes `check` has to read, about."""
    names = [name for name in files.list_directory(directory) if format.parse_file_name(name)]
    return sum(size_of_file(files, os.path.join(directory, name)) for name in names)


def check(files: PosixFiles, directory: str, progress: Progress = lambda size: None) -> Report:
    """Read all of a partition's directory, change nothing, and tell what is there.

    While it lasts nobody else can open the directory, unless it is open already, or has never been opened here.

    Parameters
    ----------
    files : PosixFiles
    directory : path
        The partition's own directory.
    progress : callable, optional
        Told of each so many bytes that have been read.

    Raises
    ------
    StorageError
        If the operating system refuses a call other than reading the content of a chunk file.
    """
    with ExitStack() as resources:
        names = files.list_directory(directory)
        report = Report(directory, foreign=not any(map(_is_ours, names)))
        for name in sorted(names):
            if name.startswith(format.QUARANTINE_PREFIX):
                report.quarantine[name] = size_of_file(files, os.path.join(directory, name))
            elif not format.belongs(name):
                report.others.append(name)
        overlay = resources.enter_context(closing(Overlay(files, format.QUARANTINE_PREFIX)))
        try:
            recovery.see_that_files_are_files(files, directory, names)
            if format.LOCK_NAME in names:
                try:
                    lock = files.lock_shared(os.path.join(directory, format.LOCK_NAME))
                    resources.enter_context(closing(lock))
                except PartitionLocked as error:
                    report.locked = str(error)
                    if format.JOURNAL_NAME in names:
                        overlay.hide(os.path.join(directory, format.JOURNAL_NAME), format.RECORDS_START)
            found = recovery.recover(overlay, directory, adopt=not report.locked)
            head = found.was
        except CorruptPartition as error:
            report.findings.append(Finding(Effect.REFUSED, os.path.basename(error.path), str(error)))
            return report
        _describe(report, found)
        remade = _report_damaged(report, overlay, found)
        if not report.locked:
            report.changes = sorted(map(os.path.basename, {*overlay.changed, *overlay.removed}))
            if head is not None and not head.is_closed:
                _report_open_journal(report, head, found)
                _report_adopted(report, found)
            _report_moved(report, overlay, files, found, remade)
        for chunk in found.chunks:
            if head is not None and head.base.number == chunk.number:
                chunk = replace(chunk, seals_end=max(chunk.seals_end, head.base.seals_end))
            with closing(ChunkCheck(overlay, directory, chunk, found.head.owner, progress)) as checked:
                chunk_report = checked.run()
            if report.locked and checked.findings and recovery.is_dropped(files, directory, chunk.number):
                continue
            report.chunks.append(chunk_report)
            report.findings += checked.findings
        report.first = report.chunks[0].first if report.chunks else found.chunks[-1].end_id
        report.count = found.chunks[-1].end_id - report.first
        report.verified = sum(chunk.verified for chunk in report.chunks)
        report.unverified = sum(chunk.unverified for chunk in report.chunks)
        report.lost = sum(chunk.lost for chunk in report.chunks)
        return report


def repair(files: PosixFiles, directory: str, report: Report) -> recovery.Recovery:
    """Do what a check has found that can be done: make the directory what a server that opens it would.

    It may be interrupted and run again. Nothing is deleted but chunks that the retention has dropped: what is
    in the way moves to `quarantine-*` files.

    Parameters
    ----------
    files : PosixFiles
    directory : path
        The partition's own directory.
    report : Report
        What `check` has found of it.

    Raises
    ------
    PartitionLocked
        If the directory is open.
    CorruptPartition
        If it cannot be opened; nothing is changed then.
    StorageError
        If the operating system refuses a call.
    """
    with closing(files.lock(os.path.join(directory, format.LOCK_NAME))):
        found = recovery.recover(files, directory)
        chunks = {chunk.number: chunk for chunk in found.chunks}
        remade = dict(_told(directory, found))
        for name in {finding.file for finding in report.findings if finding.effect == Effect.REPAIRABLE}:
            if name not in remade and (parsed := format.parse_file_name(name)):
                number, kind = parsed
                recovery.make_again(files, directory, chunks[number], kind)
        return found


def _describe(report: Report, found: recovery.Recovery) -> None:
    """Tell what was found of a partition as a whole."""
    head = found.was
    report.closed = head is None or head.is_closed
    report.epoch = 0 if head is None else head.epoch
    report.producers = found.ledger.producers()
    report.cursors = dict(found.ledger.cursors)


def _told(directory: str, found: recovery.Recovery) -> Iterator[tuple[str, str]]:
    """Return the files that recovery calls damaged, and the problems."""
    for line in found.damaged:
        name, _, problem = line.removeprefix(os.path.join(directory, "")).partition(" ")
        yield name, problem


def _report_damaged(report: Report, overlay: Overlay, found: recovery.Recovery) -> set[str]:
    """Report what recovery calls damaged, and return the files that it makes again.

    What it finds lost of events is found again when all is read.
    """
    ends = {chunk.number: chunk for chunk in found.chunks}
    remade = set()
    for name, problem in _told(report.directory, found):
        if name == format.DISPLACED_NAME:
            continue  # told with what is adopted
        number, kind = format.parse_file_name(name) or (0, "")
        if name in (*format.LEDGER_NAMES, format.JOURNAL_NAME):
            if not report.locked:  # else it may have been replaced meanwhile
                report.findings.append(Finding(Effect.LOST, name, problem))
        elif number not in ends:
            report.findings.append(Finding(Effect.DOUBTFUL, name, problem))
        elif kind in (format.IDX, format.DESC) and name in map(os.path.basename, overlay.changed):
            chunk = ends[number]
            remade.add(name)
            report.findings.append(
                Finding(
                    Effect.REPAIRABLE,
                    name,
                    problem.removesuffix(", and was made again"),
                    first=chunk.first_id,
                    count=chunk.count,
                    repair=FROM_SEALS,
                )
            )
    if found.was is None and any(chunk.seals_end for chunk in found.chunks):
        report.findings.append(
            Finding(
                Effect.LOST,
                format.JOURNAL_NAME,
                "is missing, or was never begun: epoch, producers and cursors are forgotten",
                repair="begins a new one, with another epoch",
            )
        )
    return remade


def _report_moved(
    report: Report,
    overlay: Overlay,
    files: FileLayer,
    found: recovery.Recovery,
    remade: set[str],
) -> None:
    """Report what recovery cuts off or removes."""
    ends = {chunk.number: chunk for chunk in found.chunks}
    report.findings += [
        Finding(Effect.PENDING, os.path.basename(path), "is of a chunk that was dropped", repair="removes it")
        for path in overlay.removed
        if os.path.basename(path) != format.DISPLACED_NAME
    ]
    copies = {}
    tails = []
    for cut in overlay.cuts:
        name = os.path.basename(cut.path)
        parsed = format.parse_file_name(name)
        if parsed and name not in remade:
            tails.append((cut, *parsed))
            if parsed[1] == format.DESC and not cut.begin:
                copies[parsed[0]] = _chunk_described(files, cut)
    for cut, number, kind in tails:
        chunk = ends.get(number, format.Chunk(number, found.chunks[-1].end_id))
        original = copies.get(number, number)
        report.findings.append(_tail(files, found.was, chunk, kind, cut, original))


def _report_open_journal(report: Report, head: format.Head, found: recovery.Recovery) -> None:
    first = head.base.end_id
    count = found.chunks[-1].end_id - first - sum(adopted.count for adopted in found.adopted)
    if head.mode == format.Mode.FULL and count > 0:
        problem, done = (
            "was not closed, and tells of events that are to be written again",
            "writes them, and ",
        )
    else:
        problem, done, count = "was not closed", "", 0
    report.findings.append(
        Finding(
            Effect.PENDING,
            format.JOURNAL_NAME,
            problem,
            first=first,
            count=count,
            repair=f"{done}closes it",
        )
    )


def _report_adopted(report: Report, found: recovery.Recovery) -> None:
    """Report events that no commit of ours tells of, and that are taken over."""
    for adopted in found.adopted:
        chunk = next(chunk for chunk in reversed(found.chunks) if chunk.first_id <= adopted.first)
        last = adopted.first + adopted.count - 1
        finding = Finding(
            Effect.PENDING,
            format.file_name(chunk.number, format.IDX),
            "has events behind the last commit, which another program has appended, or whose record is lost",
            first=adopted.first,
            count=adopted.count,
            repair="takes them over; those without a checksum stay so",
        )
        if adopted.place != adopted.first:
            finding.problem = (
                f"has events that another program has appended as {adopted.place} and following, where the journal "
                "has others"
            )
            finding.repair = (
                f"keeps both: writes those of the journal, and the others as events {adopted.first} to {last}"
            )
        report.findings.append(finding)


def _chunk_described(files: FileLayer, cut: Cut) -> int:
    """Return the number of the chunk that a file of descriptors is of, or -1 if it has none."""
    record = np.zeros(1, format.DESCRIPTOR_DTYPE)
    if cut.end >= format.DESCRIPTOR_SIZE:
        with closing(files.open(cut.path, writable=False)) as file:
            file.read(record.view(np.uint8).data, 0)
    return int(record["chunk"][0]) if record["location_size"][0] else -1


def _tail(
    files: FileLayer, head: format.Head | None, chunk: format.Chunk, kind: str, cut: Cut, original: int
) -> Finding:
    """Tell what a file has beyond the end of its chunk."""
    size = cut.end - cut.begin
    finding = Finding(
        Effect.PENDING,
        os.path.basename(cut.path),
        f"has {size} bytes beyond the last whole {'commit' if head and head.mode == format.Mode.FULL else 'event'}",
        cut.begin,
        cut.end,
        chunk.end_id,
        repair=f"moves them to {os.path.basename(cut.aside)}",
    )
    if original not in (chunk.number, -1):
        finding.problem = f"is a copy of a file of chunk {original}, and no events of its own are in it"
    elif _only_zeros(files, cut):
        finding.problem += ", all of them zero"
    elif kind == format.IDX and (head is None or head.is_closed):
        whole = _whole_records(files, cut)
        if whole[1:].any():
            finding.effect = Effect.LOST
            finding.count = int(np.flatnonzero(whole)[-1]) + 1
            finding.problem += ", with index records of events that seem whole, after one that is not"
    return finding


def _only_zeros(files: FileLayer, cut: Cut) -> bool:
    with closing(files.open(cut.path, writable=False)) as file:
        for begin in range(cut.begin, cut.end, PIECE):
            piece = np.empty(min(PIECE, cut.end - begin), np.uint8)
            file.read(piece.data, begin)
            if piece.any():
                return False
    return True


def _whole_records(files: FileLayer, cut: Cut) -> NDArray[np.bool_]:
    """Tell of each index record in a tail whether the chunk's files have the bytes that it tells of."""
    records = np.empty((cut.end - cut.begin) // format.INDEX_SIZE, format.INDEX_DTYPE)
    with closing(files.open(cut.path, writable=False)) as file:
        file.read(records.view(np.uint8).data, cut.begin)
    stem = cut.path.removesuffix(format.IDX)
    return format.within(
        records, *(size_of_file(files, stem + kind) for kind in (format.META, format.DATA, format.DESC))
    )
