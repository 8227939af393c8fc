"""What a root directory has: a directory for each topic, laid out as the original's driver does.

``<root>/<topic>/validator.json``, ``serializer.json`` and ``partition-selector.json`` describe its components,
``partitions/00000000`` and so on are its partitions, and ``cursors`` is ours. A topic is made under another name and
renamed, so that it is there as a whole or not at all; so is one that is deleted.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from typing import Any

from diaspora_stream.arguments import check_name, check_text
from diaspora_stream.errors import ConfigError, DiasporaError, TopicExists, TopicNotFound
from diaspora_stream.json_value import from_text
from mochi.margo.paths import read_small
from mochi.mofka.chunks import LOCK_NAME, StorageError
from mochi.mofka.files import storage

COMPONENTS = {
    "Validator": "validator.json",
    "PartitionSelector": "partition-selector.json",
    "Serializer": "serializer.json",
}
"""The files that describe a topic's components, by the class of the component."""

_PARTITIONS = "partitions"
_CURSORS = "cursors"
_LONGEST_NAME = 255


class Root:
    """A root directory.

    Raises
    ------
    ConfigError
        It cannot be made.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise ConfigError("options.root_path", f"{path} cannot be used: {error.strerror}") from error

    def topic(self, name: str) -> str:
        """Return the directory that a topic has."""
        return os.path.join(self.path, name)

    def cursors(self, name: str) -> str:
        """Return the directory of the cursors of a topic's consumers."""
        return os.path.join(self.path, name, _CURSORS)

    def exists(self, name: str) -> bool:
        """Tell whether there is a topic of this name."""
        check_text("topic name", name)
        return _may_be(name) and os.path.isdir(os.path.join(self.topic(name), _PARTITIONS))

    def names(self) -> list[str]:
        """Return the names of all topics, sorted."""
        return sorted(name for name in os.listdir(self.path) if _is_text(name) and self.exists(name))

    def partitions(self, name: str) -> list[str]:
        """Return the directories of a topic's partitions; `TopicNotFound` without the topic."""
        if not self.exists(name):
            raise TopicNotFound(name, tuple(self.names()))
        directory = os.path.join(self.topic(name), _PARTITIONS)
        numbers = [int(entry) for entry in os.listdir(directory) if entry.isdecimal() and len(entry) == 8]
        return [_partition(self.topic(name), number) for number in range(max(numbers, default=-1) + 1)]

    def descriptions(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the descriptions of a topic's components, by the class; empty where there is none.

        Raises
        ------
        DiasporaError
            One cannot be read; says which.
        """
        found = {}
        for component, file in COMPONENTS.items():
            path = os.path.join(self.topic(name), file)
            try:
                content = read_small(path) if os.path.exists(path) else b"{}"
                description = from_text(content)
            except (OSError, DiasporaError) as error:
                raise DiasporaError(f"{path} cannot be read: {error}") from error
            if not isinstance(description, dict):
                raise DiasporaError(f"{path} has no JSON object, but {description!r}")
            found[component] = description
        return found

    def create(self, name: str, count: int, descriptions: Mapping[str, bytes]) -> None:
        """Make a topic of so many partitions.

        Parameters
        ----------
        descriptions : mapping of str to bytes
            What the files of `COMPONENTS` are to have, by the class.

        Raises
        ------
        TopicExists, ConfigError, DiasporaError
            Nothing was made then.
        """
        check_name(name)
        if name.startswith(".") or len(name.encode()) > _LONGEST_NAME:
            raise ConfigError(
                "topic name",
                f"is that of a directory: it must not begin with a dot, and have {_LONGEST_NAME} bytes at most; "
                f"found {name!r}",
            )
        if self.exists(name):
            raise TopicExists(name)
        made = os.path.join(self.path, f".new-{secrets.token_hex(8)}")
        try:
            with ExitStack() as undone:
                undone.callback(shutil.rmtree, made, ignore_errors=True)
                os.makedirs(os.path.join(made, _PARTITIONS))
                for component, content in descriptions.items():
                    with open(os.path.join(made, COMPONENTS[component]), "wb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                for number in range(count):
                    storage.make(_partition(made, number))
                os.rename(made, self.topic(name))
                undone.pop_all()
            self._sync()
        except (OSError, StorageError) as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and self.exists(name):
                raise TopicExists(name) from None
            raise DiasporaError(f"topic {name!r} cannot be created in {self.path}: {error}") from error

    def delete(self, name: str, ours: Collection[str], let_go: Callable[[], None]) -> None:
        """Delete a topic; whoever reads it finds that out.

        Parameters
        ----------
        ours : collection of str
            Directories of partitions that this process writes.
        let_go : callable
            Ends that; called once nobody else writes the topic.

        Raises
        ------
        TopicNotFound
            There is none of this name.
        DiasporaError
            Another process writes it, or it cannot be removed.
        """
        partitions = self.partitions(name)
        gone = os.path.join(self.path, f".deleted-{secrets.token_hex(8)}")
        try:
            with ExitStack() as locked:
                files = storage.OwnFiles()
                for partition in sorted(filter(os.path.isdir, partitions), key=lambda path: path in ours):
                    if partition in ours:
                        let_go()
                    locked.enter_context(closing(files.lock(os.path.join(partition, LOCK_NAME))))
                os.rename(self.topic(name), gone)
                self._sync()
                shutil.rmtree(gone)
        except (OSError, StorageError) as error:
            raise DiasporaError(f"topic {name!r} cannot be deleted: {error}") from error

    def _sync(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _partition(topic: str, number: int) -> str:
    return os.path.join(topic, _PARTITIONS, f"{number:08d}")


def _may_be(name: str) -> bool:
    """Tell whether a topic that was made here or by the original may have this name, and stay within the root."""
    return bool(name) and not name.startswith(".") and not set(name) & {"/", "\0"}


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
