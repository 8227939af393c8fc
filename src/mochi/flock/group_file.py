"""The group file: who the members of a service are, and the token that proves a caller may talk to them.

The file is the original's: one line of JSON without a newline, members sorted by address and then provider
id, metadata sorted by key. Six rules are ours:

1. It holds the token of the service (metadata key ``__token__``, hexadecimal), so it has mode 0600 from its
   first byte on: who may read the file may use the service.
2. It appears whole or not at all, and outlives a crash of the machine once `write` has returned.
3. A view that travels over the network has no token in it.
4. A member may have four keys that the original passes over. ``rank`` is its ordinal, which it keeps when it is started
   again at another address. ``ended`` says that it has ended in good order. ``home`` is the host and directory of one
   that has joined, by which it is known when it joins again. ``state`` says that a group which watches its members has
   found it ``suspect`` or ``dead``.
5. An address is read in any of its forms, and kept and written in one, see `mochi.margo.address.canonical`.
6. What is no regular file is neither read nor replaced.

`parse` and `serialize` are pure; `read`, `read_within`, `write` and `update` add the file around them.
"""

import codecs
import errno
import fcntl
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Final

import msgspec

from mochi.flock.errors import GroupFileError, GroupFileMissing
from mochi.flock.standing import Peer, State
from mochi.margo.address import canonical
from mochi.margo.paths import check_regular, read_small

_log = logging.getLogger(__name__)

TOKEN_KEY: Final = "__token__"
TYPE_KEY: Final = "__type__"
CONFIG_KEY: Final = "__config__"

PRIMARY: Final = "primary_address"
"""Field of the configuration of a group: where its primary is."""

LOCK_PATIENCE: Final = 10.0
"""Seconds that an update waits for others to be done with theirs."""

START_PATIENCE: Final = 5.0
"""Seconds that clients and commands wait for the group file of a service that is starting."""

_LOOK_INTERVAL: Final = 0.05

_SHAPE: Final = (
    '{"members": [{"address": "<text>", "provider_id": <0 to 65535>}, ...], "metadata": {"<text>": "<text>"}}'
)


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """One flock provider of a group."""

    address: Annotated[str, msgspec.Meta(min_length=1)]
    provider_id: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    rank: Annotated[int, msgspec.Meta(ge=0)] | None = None
    ended: bool = False
    home: str | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        """Have the address in its one form."""
        msgspec.structs.force_setattr(self, "address", canonical(self.address))


class GroupView(msgspec.Struct, frozen=True):
    """The members of a group, in the order of the file, and its metadata.

    The position of a member is the "server rank" by which partitions are spread over servers.
    """

    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1)]
    metadata: dict[str, str] = {}

    @property
    def token(self) -> bytes | None:
        """The shared secret of the service, or None where it asks for none."""
        text = self.metadata.get(TOKEN_KEY)
        return None if text is None else bytes.fromhex(text)

    @property
    def ranks(self) -> dict[str, int]:
        """The ordinal of each server, by address: where none is recorded, its place in the file."""
        ranks: dict[str, int] = {}
        for member in self.members:
            ranks.setdefault(member.address, len(ranks) if member.rank is None else member.rank)
        return ranks

    def ranked(self) -> "GroupView":
        """Return the view with an ordinal for each member."""
        members = (
            msgspec.structs.replace(member, rank=self.ranks[member.address]) for member in self.members
        )
        return GroupView(tuple(members), self.metadata)

    def with_member(self, member: Member) -> "GroupView":
        """Return the view with a member in place of the one of its rank, or of its address."""
        others = [
            other for other in self.members if other.rank != member.rank and other.address != member.address
        ]
        metadata = self.metadata
        for other in self.members:
            if other.rank == member.rank is not None and other.address != member.address:
                metadata = _with_primary_moved(metadata, other.address, member.address)
        return GroupView(_in_order((*others, member)), metadata)

    def with_states(self, states: Mapping[Peer, State]) -> "GroupView":
        """Return the view with how its members are; who is not in `states` is alive."""
        members = (
            msgspec.structs.replace(
                member,
                state=states.get(Peer(self.ranks[member.address], member.address), State.ALIVE).word,
            )
            for member in self.members
        )
        return GroupView(tuple(members), self.metadata)

    def with_token(self, token: bytes) -> "GroupView":
        """Return the view with the shared secret of its service."""
        return GroupView(self.members, {**self.metadata, TOKEN_KEY: token.hex()})

    def without_token(self) -> "GroupView":
        """Return the view that may leave the process."""
        return GroupView(self.members, {key: text for key, text in self.metadata.items() if key != TOKEN_KEY})


def _with_primary_moved(metadata: dict[str, str], before: str, now: str) -> dict[str, str]:
    """Return the metadata of a group, one member of which has another address now: its primary, perhaps."""
    try:
        config = msgspec.json.decode(metadata.get(CONFIG_KEY, "{}"), type=dict[str, Any])
    except msgspec.DecodeError:
        return metadata
    if config.get(PRIMARY) != before:
        return metadata
    return {**metadata, CONFIG_KEY: msgspec.json.encode({**config, PRIMARY: now}, order="sorted").decode()}


def serialize(view: GroupView) -> bytes:
    """Encode a view as the content of a group file."""
    return msgspec.json.encode(GroupView(_in_order(view.members), view.metadata), order="sorted")


def _in_order(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: (member.address, member.provider_id)))


def parse(content: bytes, path: str = "<group view>") -> GroupView:
    """Decode the content of a group file.

    Keys that the original does not know are ignored, as it does itself.

    Parameters
    ----------
    content : bytes
        JSON text.
    path : str
        Where the content comes from, for messages.

    Raises
    ------
    GroupFileError
        The content is not JSON, or not a group.
    """
    try:
        view = msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8), type=GroupView)
    except msgspec.ValidationError as error:
        raise GroupFileError(path, f"not a group file: {error}; expected {_SHAPE}") from None
    except ValueError as error:
        raise GroupFileError(path, f"not a group file: it is not JSON ({error})") from None
    if not re.fullmatch("([0-9a-fA-F]{2})+", view.metadata.get(TOKEN_KEY, "00")):
        raise GroupFileError(
            path, f"metadata.{TOKEN_KEY} is not a token; expected hexadecimal digits, two a byte"
        )
    return view


def read(path: str | os.PathLike[str]) -> GroupView:
    """Read a group file.

    Raises
    ------
    GroupFileMissing
        There is no file.
    GroupFileError
        It is no regular file, cannot be read, or holds no group.
    """
    name = os.fspath(path)
    try:
        content = read_small(name)
    except FileNotFoundError:
        directory = os.path.dirname(os.path.abspath(name))
        if not os.path.isdir(directory):
            raise GroupFileError(name, f"no such group file: there is no directory {directory}") from None
        raise GroupFileMissing(
            name,
            "no such group file; the service writes it when it is ready, where its flock configuration says",
        ) from None
    except PermissionError:
        raise GroupFileError(
            name,
            "this user may not read the group file; it is for the user who started the service (mode 0600)",
        ) from None
    except OSError as error:
        raise GroupFileError(name, f"the group file cannot be read: {error.strerror}") from error
    return parse(content, name)


def read_within(path: str | os.PathLike[str], patience: float) -> GroupView:
    """Read a group file, for which `patience` seconds are waited if its directory is there; errors as `read`."""
    deadline = time.monotonic() + patience
    is_told = False
    while True:
        try:
            return read(path)
        except GroupFileMissing:
            if time.monotonic() >= deadline:
                raise
        if not is_told:
            is_told = True
            _log.warning("waiting up to %g s for the group file %s, which is not there yet", patience, path)
        time.sleep(_LOOK_INTERVAL)


def write(path: str | os.PathLike[str], view: GroupView) -> None:
    """Write a group file, or replace it, in one step that readers and crashes cannot cut in two.

    On a disk that has no space for another file, what the file holds is replaced where it is.

    Raises
    ------
    GroupFileError
        The file cannot be written, or what stands at `path` is no regular file; it is untouched.
    """
    name = os.fspath(path)
    directory, base = os.path.split(os.path.abspath(name))
    content = serialize(view)
    try:
        check_regular(name)
        try:
            _replace(name, directory, base, content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not os.path.exists(name):
                raise
            _overwrite(name, content)
    except OSError as error:
        raise GroupFileError(name, f"the group file cannot be written: {error.strerror}") from error


def _replace(name: str, directory: str, base: str, content: bytes) -> None:
    fd, temporary = tempfile.mkstemp(prefix=f"{base}.", suffix=".swp", dir=directory)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, name)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(directory)


def _overwrite(name: str, content: bytes) -> None:
    """Replace what a file holds by one write, into space that the file has; blanks cover what was longer."""
    fd = os.open(name, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, len(content))
        os.pwrite(fd, content.ljust(os.fstat(fd).st_size), 0)
        os.ftruncate(fd, len(content))
        os.fsync(fd)
    finally:
        os.close(fd)


def update(path: str | os.PathLike[str], change: Callable[[GroupView], GroupView | None]) -> None:
    """Change a group file in one step, which no other `update` cuts in two; where the change is None, remove it.

    Processes on several nodes keep each other out if their file system has locks.

    Raises
    ------
    GroupFileError
        The file is missing, holds no group, cannot be written, or is being updated for more than `LOCK_PATIENCE`.
    """
    name = os.fspath(path)
    with _locked(name):
        before = read(name)
        after = change(before)
        if after is None:
            try:
                os.unlink(name)
            except OSError as error:
                raise GroupFileError(name, f"the group file cannot be removed: {error.strerror}") from error
        elif after != before:
            write(name, after)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold the lock of the file that is at `name` now; without one where there is no file, or are no locks."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            fd = os.open(name, os.O_RDWR)
        except OSError:
            yield
            return
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_held = _is_at(fd, name)
            except BlockingIOError:
                is_held = False
            except OSError:
                is_held = True
            if is_held:
                yield
                return
        finally:
            os.close(fd)
        if time.monotonic() > deadline:
            raise GroupFileError(name, "another process keeps the group file locked")
        time.sleep(0.01)


def _is_at(fd: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name))
    except FileNotFoundError:
        return False


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
