"""Stream every file of a directory into a topic, and check every file that comes out: one event a file.

In one terminal, and then in another:

    python examples/ingest_directory.py --group-file mofka.json --topic files --consume
    python examples/ingest_directory.py --group-file mofka.json --topic files --glob '*.h5' /data/run-0042

An event's data is the content of a file, its metadata the ``path``, ``size``, ``mtime`` and ``sha256`` of it.
The first event says how many ``files`` follow, so that the consumer knows when it has all of them.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from diaspora_stream.api import ClientException, Consumer, Driver, Producer

PATIENCE_MS = 30_000


class Meter:
    """A progress bar that counts files and bytes; `summary` says how fast they went."""

    def __init__(self, verb: str, files: int | None = None) -> None:
        self.verb = verb
        self.files = self.size = 0
        self.start = time.perf_counter()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[megabytes]:,.1f} MB"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task(verb, total=files, megabytes=0.0)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def announce(self, files: int) -> None:
        """The number of files is known: start the clock."""
        self.start = time.perf_counter()
        self.progress.update(self.task, total=files)

    def count(self, size: int) -> None:
        """One more file."""
        self.files += 1
        self.size += size
        self.progress.update(self.task, completed=self.files, megabytes=self.size / 1e6)

    def summary(self) -> str:
        seconds = time.perf_counter() - self.start
        return (
            f"{self.verb} {self.files:,} files, {self.size / 1e6:,.1f} MB in {seconds:.2f} s: "
            f"{self.files / seconds:,.0f} events/s, {self.size / seconds / 1e6:,.1f} MB/s"
        )


def produce(producer: Producer, directory: Path, files: list[Path]) -> str:
    """Push every file, and wait until all of them are stored."""
    with Meter("sent", len(files)) as meter:
        producer.push({"directory": str(directory), "files": len(files)})
        for file in files:
            content = file.read_bytes()
            description = {
                "path": str(file.relative_to(directory)),
                "size": len(content),
                "mtime": file.stat().st_mtime,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            producer.push(description, content)
            meter.count(len(content))
        producer.flush().wait()
        return meter.summary()


def consume(consumer: Consumer) -> tuple[str, list[str]]:
    """Take all announced files and check them; what was received, and what is wrong with it."""
    announced: int | None = None
    received: set[str] = set()
    problems: list[str] = []
    with Meter("received") as meter:
        while announced is None or meter.files < announced:
            event = consumer.pull().wait(timeout_ms=PATIENCE_MS)
            if event is None:
                missing = "no file at all" if announced is None else f"{announced - meter.files} files"
                problems.append(f"missing: {missing}, nothing came for {PATIENCE_MS / 1000:g} s")
                break
            metadata = event.metadata
            if "files" in metadata:
                announced = metadata["files"]
                meter.announce(announced)
                continue
            path, size = metadata["path"], sum(view.nbytes for view in event.data)
            if path in received:
                problems.append(f"{path}: came twice")
            if size != metadata["size"] or sha256(event.data) != metadata["sha256"]:
                problems.append(f"{path}: {size} bytes differ from the {metadata['size']} that were sent")
            received.add(path)
            meter.count(size)
        return meter.summary(), problems


def sha256(views: Iterable[memoryview]) -> str:
    """Digest of the data of an event, in place."""
    digest = hashlib.sha256()
    for view in views:
        digest.update(view)
    return digest.hexdigest()


def files_of(directory: Path, pattern: str, excluded: list[str]) -> list[Path]:
    """Files below `directory` that match the pattern and are in no directory of an excluded name, sorted."""
    return sorted(
        path
        for path in directory.rglob(pattern)
        if path.is_file() and not set(path.relative_to(directory).parent.parts) & set(excluded)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--group-file", required=True, help="the service's mofka.json")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--glob", default="*", help="which files, at any depth (default: all)")
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="NAME", help="directories to leave out; repeatable"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("directory", nargs="?", type=Path, help="what to ingest")
    what.add_argument("--consume", action="store_true", help="receive and check instead")
    options = parser.parse_args()

    if options.directory is not None and not options.directory.is_dir():
        parser.error(f"{options.directory} is no directory")
    try:
        with Driver(backend="mofka", options={"group_file": options.group_file}) as driver:
            topic = driver.open_topic(options.topic)
            if options.directory is not None:
                with topic.producer("ingest-directory") as producer:
                    files = files_of(options.directory, options.glob, options.exclude)
                    print(produce(producer, options.directory, files))
                return 0
            with topic.consumer("ingest-directory") as consumer:
                summary, problems = consume(consumer)
    except ClientException as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(summary)
    for problem in problems:
        print(problem, file=sys.stderr)
    print("FAILED: not every file arrived as it was sent" if problems else "every digest agrees")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
