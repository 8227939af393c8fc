"""What a flock client and a flock provider say to each other."""

from typing import Final

import msgspec

from mochi.flock.group_file import Member

GET_VIEW: Final = "flock_get_view"
ANNOUNCE: Final = "flock_announce"


class GetView(msgspec.Struct):
    """Ask for the view of the group; the answer is a `GroupView` without the token."""


class Announce(msgspec.Struct):
    """Tell a member of one that has come, or has come back at another address; the answer is null."""

    member: Member
