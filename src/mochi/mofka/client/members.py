"""The members of a service as a client knows them: from its copy of the group file, and from what members tell. No I/O.

A server that is started again may have another address, of which a copy of the group file knows nothing; the other
members do. What they tell is tried beside the copy, and believed rather than that: they hear of every change.

A member is where it was heard, unless others have told of another place since; else where others have told, else where
the file says. An address where nobody answers is silent until somebody does.
"""

from collections.abc import Iterable, Sequence

import msgspec

from mochi.flock.group_file import GroupView, Member


class Members:
    """The members in the order of the group file, those that have joined since behind them.

    Parameters
    ----------
    view : GroupView
        What the group file says.
    """

    def __init__(self, view: GroupView) -> None:
        self._written = _by_rank(view)
        self._told: list[dict[int, Member]] = []
        self._heard: dict[int, Member] = {}
        self._silent: set[str] = set()

    @property
    def present(self) -> list[Member]:
        """The members, each at its present address; `rank` is its ordinal."""
        known = self._written
        for told in self._told:
            known = known | told
        return list((known | self._heard).values())

    def written(self, rank: int | None) -> str | None:
        """Return where the group file says that the member of this rank is; None if it says nothing of it."""
        member = None if rank is None else self._written.get(rank)
        return None if member is None else member.address

    @property
    def addresses(self) -> list[Member]:
        """Where a member may be, each address once: as that of who was told or heard there last.

        Those that are suspect or dead come last.
        """
        found: dict[str, Member] = {}
        for known in (self._heard, *reversed(self._told), self._written):
            for member in known.values():
                found.setdefault(member.address, member)
        places = {member.rank: place for place, member in enumerate(self.present)}
        return sorted(found.values(), key=lambda member: (member.state is not None, places[member.rank]))

    @property
    def silent(self) -> frozenset[str]:
        """Addresses where nobody has answered when last asked."""
        return frozenset(self._silent)

    def heard(self, member: Member) -> None:
        """Take note that one of `addresses` has answered."""
        self._silent.discard(member.address)
        self._heard[_rank(member)] = msgspec.structs.replace(member, ended=False, state=None)

    def missed(self, member: Member) -> None:
        """Take note that one of `addresses` has not answered."""
        self._silent.add(member.address)
        heard = self._heard.get(_rank(member))
        if heard is not None and heard.address == member.address:
            del self._heard[_rank(member)]

    def told(self, views: Iterable[GroupView]) -> bool:
        """Take note of the views that members have; return whether there are addresses in them that were not known."""
        before = {member.address for member in self.addresses}
        self._told = [_by_rank(view) for view in views]
        for rank, heard in list(self._heard.items()):
            named = {told[rank].address for told in self._told if rank in told}
            if named and heard.address not in named:
                del self._heard[rank]
        return not before.issuperset(member.address for member in self.addresses)


class Choice:
    """Which of several servers has the master database: the first in the order of the members, should two say so.

    Servers that come before it are waited for, but for those that have been silent already.
    """

    def __init__(self, order: Sequence[Member], silent: Iterable[str]) -> None:
        self._waiting = [member.address for member in order]
        self._silent = set(silent)
        self._found: dict[str, int] = {}

    def answered(self, address: str, master: int | None) -> None:
        """Take note of the provider id of the master database at a server, None if it has none or is silent."""
        if master is None:
            self._waiting.remove(address)
        else:
            self._found[address] = master

    @property
    def master(self) -> tuple[str, int] | None:
        """Address and provider id of the master database; None if that is not known (yet)."""
        for address in self._waiting:
            if address in self._found:
                return address, self._found[address]
            if address not in self._silent:
                return None
        return None


def _by_rank(view: GroupView) -> dict[int, Member]:
    ranked: dict[int, Member] = {}
    for member in view.ranked().members:
        ranked.setdefault(_rank(member), member)
    return ranked


def _rank(member: Member) -> int:
    assert member.rank is not None
    return member.rank
