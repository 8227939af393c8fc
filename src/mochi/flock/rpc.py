"""What a flock client and a flock provider say to each other."""

from typing import Final

import msgspec

GET_VIEW: Final = "flock_get_view"


class GetView(msgspec.Struct):
    """Ask for the view of the group; the answer is a `GroupView` without the token."""
