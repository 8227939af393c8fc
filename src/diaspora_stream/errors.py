"""Errors of diaspora_stream: one tree, rooted in what applications know as `diaspora_stream.api.Exception`.

Invariants: every error keeps its fields as attributes and as `args`, so that it can be pickled and compared. Its
text says what was wrong, where, what was found and what would be right.
"""

from typing import NamedTuple, Self

from diaspora_stream.console.hints import hint


class DiasporaError(RuntimeError):
    """Root of all errors that the library reports; `Exception` and `ClientException` in the public API."""


class ConfigError(DiasporaError):
    """Options or a configuration that cannot be used.

    Attributes
    ----------
    where : str
        The field at fault, such as ``validator.type`` or ``options.num_partitions``.
    problem : str
        What was found there, and what would be right.
    """

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(where, problem)
        self.where = where
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class InvalidSchema(ConfigError, ValueError):
    """A JSON Schema that is none, or one that refers to something that is not inside it."""


class UnknownName(ConfigError):
    """A driver, validator, partition selector or serializer that nothing installed provides."""


class Violation(NamedTuple):
    """One reason for which a validator refuses metadata."""

    pointer: str
    """JSON pointer to the value at fault; empty for the whole metadata."""
    instance: str
    """That value, as compact JSON."""
    reason: str
    """What is wrong with it."""


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


class InvalidMetadata(DiasporaError):
    """Metadata that is no JSON value, or that the topic's validator refuses.

    Attributes
    ----------
    problem : str
        What is wrong, in one line.
    violations : tuple of Violation
        Empty unless a validator found out more than that the metadata does not match.
    """

    def __init__(self, problem: str, violations: tuple[Violation, ...] = ()) -> None:
        super().__init__(problem, violations)
        self.problem = problem
        self.violations = violations

    def __str__(self) -> str:
        lines = [f"at {v.pointer!r}: {_shortened(v.instance)}: {v.reason}" for v in self.violations]
        return "\n  ".join([self.problem, *lines])


class InvalidJson(InvalidMetadata):
    """Text that is not JSON.

    Attributes
    ----------
    position : int
        Byte of the UTF-8 text at which reading stopped.
    """

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(problem)
        self.args = (problem, position)
        self.position = position

    def __str__(self) -> str:
        return f"not valid JSON at byte {self.position}: {self.problem}"


class InvalidDescriptor(DiasporaError):
    """A view that does not fit into the data it selects from, or bytes that are no data descriptor."""


class NoPartition(DiasporaError):
    """An event for a topic that has no partition to take it."""


class TopicExists(DiasporaError):
    """A topic of this name was created before.

    Attributes
    ----------
    name : str
        Name of the topic.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"topic {self.name!r} already exists"


class TopicNotFound(DiasporaError):
    """No topic has this name.

    Attributes
    ----------
    name : str
        The name asked for.
    known : tuple of str
        Names of the topics that exist, as far as they were asked for.
    """

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        return f"topic {self.name!r} does not exist{hint(self.name, self.known)}"


class EventsLost(DiasporaError):
    """Events that cannot be had any more.

    A consumer that raises this has passed over them, and goes on with event `next`.

    Attributes
    ----------
    where : str
        The partition, and what was asked of it.
    first, next : int
        Ids of the first event that is lost, and of the one after the last.
    """

    def __init__(self, where: str, first: int, next: int) -> None:
        super().__init__(where, first, next)
        self.where = where
        self.first = first
        self.next = next

    def over(self, first: int, next: int) -> Self:
        """Return the error for other events, lost for the same reason."""
        return type(self)(self.where, first, next)


class EventsExpired(EventsLost):
    """Events that are there no more, because the retention of their partition has dropped them."""

    def __str__(self) -> str:
        return (
            f"{self.where}: events {self.first} to {self.next - 1} have expired by the partition's retention"
        )


class EventsDamaged(EventsLost):
    """Events whose bytes are lost, or not those that were written.

    Attributes
    ----------
    problem : str
        Which file it is, and what is wrong with it.
    """

    def __init__(self, where: str, first: int, next: int, problem: str) -> None:
        super().__init__(where, first, next)
        self.args = (where, first, next, problem)
        self.problem = problem

    def over(self, first: int, next: int) -> Self:
        return type(self)(self.where, first, next, self.problem)

    def __str__(self) -> str:
        return f"{self.where}: events {self.first} to {self.next - 1} are damaged: {self.problem}"


class TimeoutExpired(DiasporaError, TimeoutError):
    """Something did not happen in time; whether it will is unknown."""


class ConnectionFailed(DiasporaError, ConnectionError):
    """A server cannot be reached, or went away while something was expected of it."""
