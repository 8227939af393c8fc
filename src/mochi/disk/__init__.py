"""What all that stores something needs of the operating system. Stands on the ground: imports nothing of ours."""

from mochi.disk.locks import share, take

__all__ = ["share", "take"]
