"""A server in a process of its own: ``python margo_server.py <address> [<limit of open files>]`` prints its address."""

import os
import resource
import sys

import msgspec

from mochi.margo.connection import Request
from mochi.margo.engine import Engine


class Number(msgspec.Struct, array_like=True):
    """Argument and result of ``echo``."""

    value: int


def main() -> None:
    engine = Engine(sys.argv[1])
    held: list[Request] = []
    engine.define("echo", 1, Number, lambda number: number)
    engine.define("pid", 1, Number, lambda _: Number(os.getpid()))
    engine.register("hold", 1, held.append)
    if len(sys.argv) > 2:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[2])))
    print(engine.address, flush=True)
    sys.exit(engine.run())


if __name__ == "__main__":
    main()
