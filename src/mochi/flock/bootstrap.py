"""How a provider comes to a group: the ways that ``bootstrap`` names.

A way is a `Bootstrap`. Making it finds the token of the service, without which nobody is let in, and raises where
this way leads to no group. `Bootstrap.form` then gives the view, once the other processes have said where they are, and
`Bootstrap.publish` puts it into the group file, once all of them are complete.

Members keep their ranks: a member that was started again takes the place of its rank, whatever its address, unless one
that is alive has it. A member that joins gets the next rank; one that joins again, from the host and directory from
which it did before, gets the rank that it had.
"""

import importlib.util
import logging
import os
import secrets
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from mochi.flock import group_file
from mochi.flock.client import Sign, announce, talking_to
from mochi.flock.config import FlockConfig
from mochi.flock.errors import ConfigError, GroupFileError
from mochi.flock.group_file import GroupView, Member
from mochi.margo import transport
from mochi.margo.address import canonical
from mochi.margo.errors import AddressError, MargoError

__all__ = ["Bootstrap", "Offer", "Place", "bootstrap", "new_token", "primary_of"]

_TOKEN_BYTES = 32

_log = logging.getLogger(__name__)

CALL_TIMEOUT = 1.0
"""Seconds that a member has to answer another one."""

ENDING = 5.0
"""Seconds that another service, which has the group file, or the member of a rank, is given to end."""


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
    found : GroupView or None
        The group file as it was found, where this way needs one.
    on_place : callable
        Told the member before others can learn that it has got another rank.

    Raises
    ------
    FlockError
        This way leads to no group.
    """

    name: str
    token: bytes | None = None
    found: GroupView | None = None
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
        self.found = view
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
        view = self.existing().ranked()
        ranks = sorted(view.ranks.values())
        if self.me.rank not in ranks:
            raise GroupFileError(
                str(self.file),
                f"the group has no member of rank {self.me.rank} to start again; it has {ranks}",
            )
        size = ranks[-1] + 1
        if self.place is not None and self.place.size != size and self.config.mpi_ranks is None:
            raise GroupFileError(
                str(self.file),
                f"--size {self.place.size} disagrees with the group, whose ranks are {ranks}; give --size {size}",
            )
        self._check_free(view)

    def _check_free(self, view: GroupView) -> None:
        """Return unless the member of the rank is alive, and answers; it is given some time to end."""
        holder = next(member for member in view.members if member.rank == self.me.rank)
        if holder.address == self.me.address:
            return
        deadline = time.monotonic() + ENDING
        with talking_to(view, ENDING) as client:
            while client.sign(holder) is Sign.ANSWERS:
                if time.monotonic() > deadline:
                    raise GroupFileError(
                        str(self.file),
                        f"rank {self.me.rank} is served at {holder.address}, which answers; to replace it, stop it "
                        f"with bedrock-shutdown -f FILE --rank {self.me.rank}",
                    )
                time.sleep(0.1)

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        return self.existing().ranked().with_member(self.me).members

    def publish(self, view: GroupView) -> None:
        announce(self.me, _put(str(self.file), self.me, view), CALL_TIMEOUT)


class JoinBootstrap(Bootstrap):
    """A group that lets one more in, or one back that it had: by its address, or by its home where that is free."""

    name = "join"

    def open(self) -> None:
        view = self.existing()
        if _find(view, self.me.address) is None:
            _check_open(str(self.file), view, self.me)

    def form(self, offers: Mapping[int, Offer]) -> tuple[Member, ...]:
        def enter(view: GroupView) -> GroupView:
            ranked = view.ranked()
            own = _find(ranked, self.me.address) or self._former(ranked)
            rank = 1 + max(view.ranks.values()) if own is None else own.rank
            self.me = msgspec.structs.replace(self.me, rank=rank)
            self.on_place(self.me)
            return ranked.with_member(self.me)

        group_file.update(str(self.file), enter)
        view = self.existing()
        announce(self.me, view, CALL_TIMEOUT)
        return view.members

    def _former(self, view: GroupView) -> Member | None:
        """Return what this server was before, if it was a member, at another address."""
        former = [member for member in view.members if member.home == self.me.home]
        with talking_to(view, CALL_TIMEOUT) as client:
            free = [member for member, sign in client.signs(former) if not sign.is_living]
        return min(free, key=lambda member: view.ranks[member.address], default=None)

    def publish(self, view: GroupView) -> None:
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
        self.found = view
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
    if JoinBootstrap.name in names:
        me = msgspec.structs.replace(me, home=f"{socket.gethostname()}:{os.getcwd()}")
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
    by_address = {member.address: member for member in view.members}
    if own in by_address:
        return by_address[own]
    return next((member for member in view.members if _leads_to(member.address, own)), None)


def _leads_to(address: str, own: str) -> bool:
    with suppress(AddressError):
        return transport.leads_to(address, own)
    return False


def _check_open(file: str, view: GroupView, me: Member) -> None:
    """Return if the group is there, and lets one more in: nobody grows where no one could say who has been lost."""
    with talking_to(view, CALL_TIMEOUT) as client:
        signs = dict(client.signs(view.members))
    if not any(sign.is_living for sign in signs.values()):
        raise GroupFileError(file, "the group file is of a service that has ended: no member answers")
    kind = view.metadata.get(group_file.TYPE_KEY)
    answering = [member for member, sign in signs.items() if sign is Sign.ANSWERS]
    if kind == "centralized":
        primary = primary_of(view)
        if primary not in {view.ranks[member.address] for member in answering}:
            raise GroupFileError(
                file, f"the primary, rank {primary}, does not answer; without it nobody joins the group"
            )
    elif kind == "swim":
        number = sum(not member.ended for member in view.members)
        returning = any(member.home == me.home and member not in answering for member in view.members)
        if 2 * (len(answering) + returning) <= number:
            raise GroupFileError(
                file,
                f"{len(answering)} of {number} members answer; without more than half nobody joins the group",
            )


def primary_of(view: GroupView) -> int:
    """Return the rank of the primary of a group of type ``centralized``, which its metadata name.

    Raises
    ------
    ConfigError
        They name an address that no member has.
    """
    config = msgspec.json.decode(view.metadata.get(group_file.CONFIG_KEY, "{}"))
    address = config.get(group_file.PRIMARY)
    if address is None:
        return min(view.ranks.values())
    provider_id = config.get("primary_provider_id")
    primary = _find(view, canonical(address))
    if primary is None or provider_id not in (None, primary.provider_id):
        named = address if provider_id is None else f"{address} with provider id {provider_id}"
        raise ConfigError(
            f"config.group.config.{group_file.PRIMARY}",
            f"no member of the group is at {named}; there are "
            + ", ".join(f"{member.address} with {member.provider_id}" for member in view.members),
        )
    return view.ranks[primary.address]


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
        members = [member for member in other.members if not member.ended]
        while True:
            signs = dict(client.signs(members))
            living = [member for member, sign in signs.items() if sign.is_living]
            if not living:
                return
            if time.monotonic() > deadline:
                state = "running" if signs[living[0]] is Sign.ANSWERS else "there, and does not answer,"
                raise GroupFileError(
                    file,
                    f"this is the group file of a service that is {state} at {living[0].address}; "
                    "stop that with bedrock-shutdown -f, or name another file",
                )
            time.sleep(0.1)


def _put(file: str, me: Member, view: GroupView) -> GroupView:
    """Have a member take its place in the group file, and return what is there then.

    If the file has gone meanwhile, it is written anew from `view`.
    """

    def enter(current: GroupView) -> GroupView:
        if current.token != view.token:
            raise GroupFileError(file, "the group file is of another service by now")
        return current.ranked().with_member(me)

    if os.path.exists(file):
        group_file.update(file, enter)
    else:
        group_file.write(file, view)
    return group_file.read(file)


def _with_some_token(view: GroupView) -> GroupView:
    """Return the view with a token; the ranks, which may be those of the order in the file, stay as they are."""
    return view if view.token is not None else view.ranked().with_token(new_token())
