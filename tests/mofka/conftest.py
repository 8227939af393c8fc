"""Lets the tests of partitions use the recording file layer of the tests of chunks."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "chunks"))
