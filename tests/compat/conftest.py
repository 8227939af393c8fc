"""Programs of the original run against servers such as the client's tests have."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "client"))
