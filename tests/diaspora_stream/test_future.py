"""Time-outs as applications give them."""

import math
from typing import Any

import numpy as np
import pytest

from diaspora_stream.future import seconds


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (1500, 1.5),
        (0.5, 0.0005),
        (np.float32(250), 0.25),
        (np.int64(2000), 2.0),
        (0, math.inf),
        (-1, math.inf),
        (math.inf, math.inf),
        (2**70, 2**70 / 1000),
        (10**400, math.inf),
    ],
)
def test_a_time_out_is_in_seconds_and_zero_and_less_is_for_ever(given: Any, expected: float | None) -> None:
    assert seconds(given) == expected


@pytest.mark.parametrize("given", ["5", math.nan, [1], object()])
def test_what_is_no_number_is_no_time_out(given: Any) -> None:
    with pytest.raises(TypeError, match="timeout_ms must be a number"):
        seconds(given)
