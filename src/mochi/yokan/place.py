"""Where a database in files may lie: a directory of its own, whose parent exists."""

import os

from mochi.margo.errors import ConfigError

__all__ = ["check_place"]


def check_place(
    path: str, where: str, sign: str, *, create_if_missing: bool, error_if_exists: bool = False
) -> None:
    """Refuse a directory that a database cannot be opened in, before anything is made there.

    Parameters
    ----------
    path : str
        The directory.
    where : str
        JSON path of the field, for errors.
    sign : str
        The file by which a database is known to be there.

    Raises
    ------
    ConfigError
        The parent is missing, a file is in the place of a directory, or the database is present or absent where it
        must not be.
    """
    path = os.path.abspath(path)
    parent = os.path.dirname(path)
    for place in (parent, path):
        if os.path.exists(place) and not os.path.isdir(place):
            raise ConfigError(where, f'"{place}" is not a directory')
    if not os.path.isdir(parent):
        raise ConfigError(where, f'the directory "{parent}" does not exist; make it with: mkdir -p {parent}')
    present = os.path.exists(os.path.join(path, sign))
    if present and error_if_exists:
        raise ConfigError(where, f'there is a database at "{path}" already, and error_if_exists is true')
    if not present and not create_if_missing:
        raise ConfigError(where, f'there is no database at "{path}", and create_if_missing is false')
