"""Errors of mochi.margo: one small tree, each saying whose fault it is and what would be right.

`Fault` is the only one that travels: a handler raises it on the server, and the caller gets the same class back
with the same code, message and details. All others are raised where they are found.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class MargoError(Exception):
    """Root of all errors of the Mochi packages."""


class ConfigError(MargoError):
    """A configuration that cannot be used.

    Attributes
    ----------
    where : str
        JSON path of the field at fault, such as ``margo.argobots.pools[1].kind``.
    problem : str
        What was found there, and what is allowed.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class InUse(MargoError):
    """A pool or an xstream that cannot be removed.

    Attributes
    ----------
    what, name : str
        ``pool`` or ``xstream``, and its name.
    users : tuple of str
        Who needs it.
    """

    def __init__(self, what: str, name: str, users: Iterable[str]) -> None:
        self.what = what
        self.name = name
        self.users = tuple(users)
        super().__init__(f'{what} "{name}" cannot be removed: it is needed by {", ".join(self.users)}')


class AddressError(MargoError):
    """An address of an unknown form, or one that cannot be listened on or reached."""


class ProtocolError(MargoError):
    """What breaks the wire format, or is said at the wrong time; its two kinds say whose fault that is."""


class LocalProtocolError(ProtocolError):
    """This side was about to break the format: nothing was sent, and the connection goes on."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the format; the connection is closed."""


class VersionMismatch(ProtocolError):
    """The two sides have no version of the wire format in common.

    Attributes
    ----------
    peer_versions : tuple of int
        What the peer speaks.
    version : int
        What this side speaks.
    """

    def __init__(self, peer: str, peer_versions: Iterable[int], here: str, version: int) -> None:
        self.peer_versions = tuple(peer_versions)
        self.version = version
        spoken = ", ".join(map(str, self.peer_versions)) or "none"
        is_older = max(self.peer_versions, default=0) < version
        super().__init__(
            f"{peer} speaks version {spoken} of the wire format, {here} version {version}: "
            f"update {peer if is_older else here}"
        )


class ConnectionLost(MargoError, ConnectionError):
    """The peer is gone while something was expected of it."""


class AuthenticationError(MargoError):
    """The peer does not hold the token of the service, or asked for something without it."""


class DeadlineExceeded(MargoError, TimeoutError):
    """No answer within the time-out; the call may or may not have taken effect."""


class HeldUp(MargoError):
    """A wait for a connection on which a frame of the same thread is suspended in the middle of a message.

    Raised to a signal handler, say, that struck there and waits for what only that frame can receive.
    """


class Fault(MargoError):
    """An error that travels from a handler to its caller.

    Attributes
    ----------
    code : str
        Short stable word that programs decide on, such as ``key_exists``.
    message : str
        One line for people.
    details : Mapping
        Fields of the error, JSON-like.
    """

    def __init__(self, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = dict(details or {})


class ServiceFault(Fault):
    """Root of what one service answers when it cannot do what it was asked; `code` is the kind of its class.

    Attributes
    ----------
    kind : str
        The code under which an error of this class travels.
    """

    kind: ClassVar[str]

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(self.kind, message, details)

    @classmethod
    def revive(cls, fault: Fault) -> Fault:
        """Return the error of this service that a `fault` was, before it arrived; one of another kind as it is."""
        kinds = {error.kind: error for error in cls.__subclasses__()}
        return kinds[fault.code](fault.message, fault.details) if fault.code in kinds else fault
