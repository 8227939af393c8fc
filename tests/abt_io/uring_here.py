"""Whether the kernel and the library of this machine have io_uring, for tests of the real thing."""

import pytest

try:
    import liburing

    from mochi.abt_io.ring import Ring

    Ring(0, 0).close()
    MISSING = ""
except (ImportError, OSError) as error:
    MISSING = f"io_uring cannot be used here: {error}"

needs_uring = pytest.mark.skipif(bool(MISSING), reason=MISSING)


def kernel_has(flags: list[str]) -> bool:
    """Tell whether the kernel makes a ring with these ``IORING_SETUP_*`` flags."""
    try:
        Ring(sum(getattr(liburing, flag) for flag in flags), 0).close()
    except OSError:
        return False
    return True
