"""A process with memory that others read: prints its name, base and key, serves until it is killed."""

import mmap
import sys
import time

from mochi.margo.fabric.library import load
from mochi.margo.fabric.plane import Plane
from mochi.margo.fabric.provider import choose

library = load()
plane = Plane(library, choose(library, sys.argv[1], "127.0.0.1"))
memory = memoryview(mmap.mmap(-1, 64 << 20))
memory[:] = bytes(range(256)) * (len(memory) // 256)
region = plane.register(memory)
print(plane.name.hex(), region.base, region.key, flush=True)
time.sleep(300)
