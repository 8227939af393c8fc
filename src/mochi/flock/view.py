"""Views of a group as programs of the original have them: objects that their holder changes and shares.

`mochi.flock.group_file.GroupView` is what all else here uses.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Self, SupportsIndex, overload

from msgspec import ValidationError, convert

from mochi.flock import group_file
from mochi.flock.errors import FlockError
from mochi.flock.group_file import Member, parse, serialize
from mochi.margo.address import canonical

__all__ = ["GroupView", "Member", "Members", "Metadata"]


class Members:
    """The members of a view, sorted by address and then provider id."""

    def __init__(self, members: list[Member]) -> None:
        self._members = members

    def __repr__(self) -> str:
        return repr(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> list[Member]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Member | list[Member]:
        return self._members[index]

    @property
    def count(self) -> int:
        """Number of members."""
        return len(self._members)

    def exists(self, address: str, provider_id: int) -> bool:
        """Tell whether there is such a member."""
        return self._index(address, provider_id) is not None

    def add(self, address: str, provider_id: int) -> None:
        """Add a member, unless it is there; `FlockError` for what cannot be one."""
        try:
            member = convert({"address": str(address), "provider_id": provider_id}, Member)
        except ValidationError as error:
            raise FlockError(f"{address!r}, {provider_id!r} is no member: {error}") from None
        if self._index(member.address, member.provider_id) is None:
            self._members.append(member)
            self._members.sort(key=lambda member: (member.address, member.provider_id))

    def remove(self, address: str, provider_id: int) -> None:
        """Remove a member; `KeyError` if there is none."""
        index = self._index(address, provider_id)
        if index is None:
            raise KeyError(f"no member has address {address} and provider id {provider_id}")
        del self._members[index]

    def _index(self, address: str, provider_id: int) -> int | None:
        wanted = (canonical(str(address)), provider_id)
        return next((i for i, m in enumerate(self._members) if (m.address, m.provider_id) == wanted), None)


class Metadata:
    """The metadata of a view: texts by key, sorted."""

    def __init__(self, pairs: dict[str, str]) -> None:
        self._pairs = pairs

    def __repr__(self) -> str:
        return repr(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._pairs))

    def __contains__(self, key: object) -> bool:
        return key in self._pairs

    def __getitem__(self, key: str) -> str:
        return self._pairs[key]

    @property
    def count(self) -> int:
        """Number of keys."""
        return len(self._pairs)

    def items(self) -> list[tuple[str, str]]:
        """Return keys and values."""
        return sorted(self._pairs.items())

    def add(self, key: str, value: str) -> None:
        """Set a value."""
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"metadata are texts, not {key!r}: {value!r}")
        self._pairs[key] = value

    def remove(self, key: str) -> None:
        """Remove a key; `KeyError` if it is not there."""
        del self._pairs[key]


class GroupView:
    """The members of a group, and its metadata.

    The token of a service is neither among the metadata nor in the text of a view; a file that it is written to has
    it, and mode 0600.

    Parameters
    ----------
    members : iterable of Member
    metadata : mapping, optional

    Attributes
    ----------
    members : Members
    metadata : Metadata
    token : bytes or None
        Of the service, where the view is from its group file.
    """

    def __init__(
        self, members: "list[Member] | tuple[Member, ...]" = (), metadata: Mapping[str, str] | None = None
    ) -> None:
        pairs = dict(metadata or {})
        secret = pairs.pop(group_file.TOKEN_KEY, None)
        self.token = None if secret is None else bytes.fromhex(secret)
        self.members = Members(list(members))
        self.metadata = Metadata(pairs)
        self._lock = threading.RLock()

    @classmethod
    def of(cls, view: group_file.GroupView) -> Self:
        """Return a view of the members that have not ended."""
        members = [member for member in view.ranked().members if not member.ended]
        return cls(members, view.metadata)

    @classmethod
    def from_file(cls, filename: str | os.PathLike[str]) -> Self:
        """Read a group file; `GroupFileError` if it cannot be read, or is none."""
        return cls.of(group_file.read(filename))

    @classmethod
    def from_string(cls, text: str) -> Self:
        """Return the view of a text such as a group file holds; `GroupFileError` if it holds none."""
        return cls.of(parse(text.encode()))

    def whole(self) -> group_file.GroupView:
        """Return the same as a group file has it."""
        view = group_file.GroupView(tuple(self.members), dict(self.metadata.items()))
        return view if self.token is None else view.with_token(self.token)

    def serialize_to_file(self, filename: str | os.PathLike[str]) -> None:
        """Write a group file, in one step; `GroupFileError` if it cannot be written."""
        group_file.write(filename, self.whole())

    def copy(self) -> "GroupView":
        """Return a view of its own that is the same."""
        whole = self.whole()
        return GroupView(list(whole.members), whole.metadata)

    def clear(self) -> None:
        """Remove all members and metadata."""
        self.members = Members([])
        self.metadata = Metadata({})

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Keep out other threads that lock the view as well."""
        with self._lock:
            yield self

    @property
    def digest(self) -> int:
        """64 bits that are the same for equal members and metadata, whatever their order."""
        digest = 0
        for member in self.members:
            digest ^= _hash(f"{member.address}\0{member.provider_id}")
        for key, value in self.metadata.items():
            digest ^= _hash(f"{key}\0\0{value}")
        return digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupView) and self.whole() == other.whole()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return serialize(self.whole().without_token()).decode()

    def __repr__(self) -> str:
        return f"<GroupView of {len(self.members)} members>"


def _hash(text: str) -> int:
    value = 5381
    for byte in text.encode():
        value = (33 * value ^ byte) & 0xFFFF_FFFF_FFFF_FFFF
    return value
