"""Bytes moved by the network card, between memory that processes have registered with libfabric.

`library` finds and loads libfabric, `provider` chooses what to use of it, `transfers` decides what becomes of each
transfer, and `plane` carries that out: one endpoint, one thread. Connections stay on their sockets, for libfabric tells
nobody that an idle peer has died.
"""
