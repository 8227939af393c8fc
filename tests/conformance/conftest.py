"""Conformance is shown on whole services, as the system tests start them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "system"))

