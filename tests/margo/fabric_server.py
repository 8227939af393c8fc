"""A server that answers with the bulk that came: ``python fabric_server.py <address>`` prints its address."""

import sys

from mochi.margo import rpc
from mochi.margo.connection import Request
from mochi.margo.engine import Engine
from mochi.margo.wire import allocate_private


def back(request: Request) -> None:
    request.reply(rpc.pack([]), [[view] for view in request.frame.bulk if view is not None])


engine = Engine(sys.argv[1])
engine.register("back", 1, back, allocate=allocate_private)
print(engine.address, flush=True)
sys.exit(engine.run())
