"""The roster: one record for each chunk that is full, so that opening a directory reads no index of them.

Record k, of the chunk k, lies at a fixed place in `mofka.chunks`, and is written when the chunk is on disk and the
next one has been made. It is what tells how many events a chunk had whose files are lost, so that all others keep
their ids.

Invariants: a chunk that has a record takes no more events; a record that is torn, or of another partition, is none.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import closing
from dataclasses import astuple

import numpy as np
from xxhash import xxh3_64_intdigest

from mochi.disk.contract import FileLayer
from mochi.disk.files import syncing
from mochi.mofka.chunks.catalog import Chunk
from mochi.mofka.chunks.format import layout

_RECORD = struct.Struct("<8Q")
_CHECKSUM = struct.Struct("<Q")
_SIZE = _RECORD.size + _CHECKSUM.size


def read_roster(files: FileLayer, directory: str, names: Sequence[str], owner: bytes) -> dict[int, Chunk]:
    """Read the records of a directory, by the number of the chunk."""
    if layout.ROSTER_NAME not in names:
        return {}
    path = os.path.join(directory, layout.ROSTER_NAME)
    content = np.empty(files.size(path), np.uint8).data
    with closing(files.open(path, writable=False)) as file:
        file.read(content, 0)
    found = {}
    for position in range(0, len(content) - _SIZE + 1, _SIZE):
        chunk = Chunk(*_RECORD.unpack_from(content, position))
        if content[position : position + _SIZE] == _pack(chunk, owner) and chunk.number == position // _SIZE:
            found[chunk.number] = chunk
    return found


def add_to_roster(files: FileLayer, directory: str, owner: bytes, chunk: Chunk) -> None:
    """Put the record of a chunk on disk."""
    with closing(files.open(os.path.join(directory, layout.ROSTER_NAME), writable=True)) as file:
        file.write([_pack(chunk, owner)], chunk.number * _SIZE)
        with syncing(file.path):
            file.sync()
    with syncing(directory):
        files.sync_directory(directory)


def shorten_roster(files: FileLayer, directory: str, end: int) -> None:
    """Take away the records of the chunks from `end` on."""
    with closing(files.open(os.path.join(directory, layout.ROSTER_NAME), writable=True)) as file:
        if files.size(file.path) > end * _SIZE:
            file.truncate(end * _SIZE)
            with syncing(file.path):
                file.sync()


def update_roster(
    files: FileLayer, directory: str, owner: bytes, known: dict[int, Chunk], chunks: Sequence[Chunk]
) -> None:
    """Let the records on disk, of which `known` are believed, be those of all `chunks` but the last."""
    path = os.path.join(directory, layout.ROSTER_NAME)
    exists = layout.ROSTER_NAME in files.list_directory(directory)
    *full, last = chunks
    end = last.number * _SIZE
    missing = [chunk for chunk in full if known.get(chunk.number) != chunk]
    if not missing and (not exists or files.size(path) <= end):
        return
    with closing(files.open(path, writable=True)) as file:
        for chunk in missing:
            file.write([_pack(chunk, owner)], chunk.number * _SIZE)
        if files.size(path) > end:
            file.truncate(end)
        file.sync()
    files.sync_directory(directory)


def _pack(chunk: Chunk, owner: bytes) -> bytes:
    content = _RECORD.pack(*astuple(chunk))
    return content + _CHECKSUM.pack(xxh3_64_intdigest(owner + content))
