"""How a provider comes to a group: the ways that ``bootstrap`` names.

A way is a `Bootstrap`. Making it finds the token of the service, without which nobody is let in, and raises where
this way leads to no group. `Bootstrap.form` then gives the view, once the other processes have said where they are, and
`Bootstrap.publish` puts it into the group file, once all of them are complete.

Members keep their ranks: a member that was started again takes the place of its rank, whatever its address. A member
that joins gets the next rank.
"""

import importlib.util
import logging
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from mochi.flock import group_file
from mochi.flock.client import talking_to
from mochi.flock.config import FlockConfig
from mochi.flock.errors import ConfigError, GroupFileError
from mochi.flock.group_file import GroupView, Member
from mochi.margo import address
from mochi.margo.errors import MargoError

__all__ = ["Bootstrap", "Offer", "Place", "bootstrap", "new_token"]

_TOKEN_BYTES = 32

_log = logging.getLogger(__name__)

CALL_TIMEOUT = 1.0
"""Seconds that a member has to answer another one."""

ENDING = 5.0
"""Seconds that another service, which has the group file, is given to end."""


@dataclass(frozen=True)
class Place:
    """The place of a process among those that are one service.

    Attributes
    ----------
    rank, size : int
        Ordinal of the process, and number of processes.
    secret : bytes, optional
        What those that were started together share; None for a process that was started again alone.
    """

    rank: int
    size: int
    secret: bytes | None


class Offer(msgspec.Struct):
    """What a provider tells those of its name in the other processes."""

    member: Member
    file: str | None


class Bootstrap(ABC):
    """A way to a group.

    Parameters
    ----------
    me : Member
        The provider; its rank is the one in `place`, and the group may give it another.
    file : str, optional
        Absolute path of the group file.
    place : Place, optional
        None for a process that was started alone.

    Attributes
    ----------
    token : bytes or None
        The shared secret of the service; None where there is none yet.
    me : Member
    on_place : callable
        Told the member before others can learn that it has got another rank.

    Raises
    ------
    FlockError
        This way leads to no group.
    """

    name: str
    token: bytes | None = None
    keeps_file = False
    """Whether the group file is there before the service, and after it."""

    def __init__(self, me: Member, config: FlockConfig, file: str | None, place: Place | None) -> None:
        self.me = me
        self.on_place: Callable[[Member], None] = lambda member: None
        self.config = config
        self.file = file
        self.place = place
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Find the token, if the service has one."""

    @abstractmethod
    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        """Return the members; `offers` are those of the providers of this name, by the ranks of their processes."""

    def publish(self, view: GroupView) -> None:
        """Have the group file hold the view.

        Raises
        ------
        GroupFileError
            The file cannot be written, or is that of another service, which is running.
        """
        if self.file is not None:
            _await_end(self.file, view)
            group_file.write(self.file, view)

    def existing(self) -> GroupView:
        """Read the group file, which this way needs, and take the token from it."""
        if self.file is None:
            raise ConfigError("config.file", f"missing; the bootstrap {self.name!r} finds the group there")
        view = group_file.read(self.file)
        self.token = view.token
        return view


class SelfBootstrap(Bootstrap):
    """A group of one."""

    name = "self"

    def open(self) -> None:
        self.token = None

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        rivals = [rank for rank, offer in offers.items() if self.file is not None and offer.file == self.file]
        if len(rivals) > 1:
            raise ConfigError(
                "config.bootstrap",
                f"'self' makes {len(rivals)} groups of one, all in the group file {self.file}; 'mpi' makes one group",
            )
        return (self.me,)


class MpiBootstrap(Bootstrap):
    """The processes that were started together."""

    name = "mpi"

    def open(self) -> None:
        if self.place is not None:
            self.token = self.place.secret
        elif importlib.util.find_spec("mpi4py") is None:
            raise ConfigError(
                "config.bootstrap",
                "'mpi' needs mpi4py, which is not installed: pip install 'mofka[mpi]', and then mpirun; "
                "or bedrock -n N, which needs no MPI",
            )
        ranks = self.config.mpi_ranks
        if ranks is not None and self.me.rank not in ranks:
            raise ConfigError(
                "config.mpi_ranks",
                f'this process has rank {self.me.rank}, which is not in {ranks}; give the provider an "__if__"',
            )

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        wanted = self.config.mpi_ranks
        if wanted is not None and (missing := sorted(set(wanted) - set(offers))):
            raise ConfigError("config.mpi_ranks", f"no process of rank {missing[0]} has this provider")
        return tuple(offer.member for rank, offer in offers.items() if wanted is None or rank in wanted)

    def publish(self, view: GroupView) -> None:
        if self.me.rank == min(view.ranks.values()):
            super().publish(view)


class ReturnBootstrap(Bootstrap):
    """The group that a process comes back to, which was started again alone under its rank."""

    name = "of one that comes back"

    def open(self) -> None:
        view = self.existing()
        if self.me.rank not in view.ranks.values():
            raise GroupFileError(
                str(self.file),
                f"the group has no member of rank {self.me.rank} to start again; "
                f"it has {sorted(view.ranks.values())}",
            )

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        return self.existing().ranked().with_member(self.me).members

    def publish(self, view: GroupView) -> None:
        _put(str(self.file), self.me, view)
        _announce(self.me, view)


class JoinBootstrap(Bootstrap):
    """A group that lets one more in, or that has this server already, by its address."""

    name = "join"

    def open(self) -> None:
        view = self.existing()
        own = _find(view, self.me.address)
        self._is_in = own is not None
        if own is not None:
            self.me = msgspec.structs.replace(own, rank=view.ranks[own.address], ended=False)
        else:
            _check_alive(str(self.file), view)

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        if self._is_in:
            return self.existing().ranked().with_member(self.me).members

        def enter(view: GroupView) -> GroupView:
            self.me = msgspec.structs.replace(self.me, rank=1 + max(view.ranks.values()))
            self.on_place(self.me)
            return view.ranked().with_member(self.me)

        group_file.update(str(self.file), enter)
        view = self.existing()
        _announce(self.me, view)
        return view.members

    def publish(self, view: GroupView) -> None:
        if self._is_in:
            _put(str(self.file), self.me, view)


class FileBootstrap(Bootstrap):
    """The group of a file that was there before, and in which this server finds itself by its address."""

    name = "file"
    keeps_file = True

    def open(self) -> None:
        self._take_place(self.existing(), str(self.file))
        if self.token is None:
            group_file.update(str(self.file), _with_some_token)
            self.existing()

    def _take_place(self, view: GroupView, where: str) -> None:
        own = _find(view, self.me.address)
        if own is None:
            raise ConfigError(
                "config.bootstrap",
                f"{self.me.address} is not a member of the group in {where}, which has "
                + ", ".join(member.address for member in view.members),
            )
        self.me = msgspec.structs.replace(own, rank=view.ranks[own.address], ended=False)

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        return self.existing().ranked().members

    def publish(self, view: GroupView) -> None:
        pass


class ViewBootstrap(FileBootstrap):
    """The group that the configuration lists, and in which this server finds itself by its address."""

    name = "view"
    keeps_file = False

    def open(self) -> None:
        view = self.config.view
        if view is None:
            raise ConfigError("config.view", "missing; the bootstrap 'view' takes the members from there")
        self._take_place(view, "config.view")
        self.token = view.token
        if view.token is None and len(view.members) > 1:
            raise ConfigError(
                f"config.view.metadata.{group_file.TOKEN_KEY}",
                "missing; by it the members know each other: an even number of random hexadecimal digits",
            )

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        assert self.config.view is not None
        return self.config.view.ranked().members

    def publish(self, view: GroupView) -> None:
        if self.file is not None:
            group_file.write(self.file, view)


_WAYS: dict[str, type[Bootstrap]] = {
    way.name: way for way in (SelfBootstrap, MpiBootstrap, JoinBootstrap, FileBootstrap, ViewBootstrap)
}


def bootstrap(me: Member, config: FlockConfig, file: str | None, place: Place | None) -> Bootstrap:
    """Return the first of the configured ways that leads to a group; parameters as those of `Bootstrap`.

    Raises
    ------
    FlockError
        None does; the error is that of the last.
    """
    names = [config.bootstrap] if isinstance(config.bootstrap, str) else config.bootstrap
    *others, last = [_WAYS[name] for name in names]
    if place is not None and place.secret is None and not issubclass(last, FileBootstrap):
        return ReturnBootstrap(me, config, file, place)
    for way in others:
        try:
            return way(me, config, file, place)
        except MargoError as error:
            _log.info("flock: bootstrap %r leads to no group: %s", way.name, error)
    return last(me, config, file, place)


def new_token() -> bytes:
    """Return the shared secret of a new service."""
    return secrets.token_bytes(_TOKEN_BYTES)


def _find(view: GroupView, own: str) -> Member | None:
    parsed = address.parse(own)
    for member in view.members:
        if member.address == own or address.parse(member.address) == parsed:
            return member
    return None


def _check_alive(file: str, view: GroupView) -> None:
    with talking_to(view, CALL_TIMEOUT) as client:
        if not any(map(client.is_alive, view.members)):
            raise GroupFileError(file, "the group file is of a service that has ended: no member answers")


def _announce(me: Member, view: GroupView) -> None:
    with talking_to(view, CALL_TIMEOUT) as client:
        for member in view.members:
            if member.rank != me.rank and not member.ended:
                with suppress(MargoError):
                    client.announce(member, me)


def _await_end(file: str, view: GroupView) -> None:
    """Return once no other service than that of `view` lives by a group file."""
    try:
        other = group_file.read(file)
    except GroupFileError:
        return
    if other.token == view.token:
        return
    deadline = time.monotonic() + ENDING
    with talking_to(other, CALL_TIMEOUT) as client:
        while living := [member for member in other.members if not member.ended and client.is_alive(member)]:
            if time.monotonic() > deadline:
                raise GroupFileError(
                    file,
                    f"this is the group file of a service that is running at {living[0].address}; "
                    "stop that with bedrock-shutdown -f, or name another file",
                )
            time.sleep(0.1)


def _put(file: str, me: Member, view: GroupView) -> None:
    """Have a member take its place in the group file; if the file has gone meanwhile, write it anew."""

    def enter(current: GroupView) -> GroupView:
        if current.token != view.token:
            raise GroupFileError(file, "the group file is of another service by now")
        return current.ranked().with_member(me)

    if os.path.exists(file):
        group_file.update(file, enter)
    else:
        group_file.write(file, view)


def _with_some_token(view: GroupView) -> GroupView:
    """Return the view with a token; the ranks, which may be those of the order in the file, stay as they are."""
    return view if view.token is not None else view.ranked().with_token(new_token())
