"""Margo: how processes call each other, over shared memory on one node or TCP between nodes.

`engine` is a process that is called, `client` one that calls. `connection` and `link` are the two ends of a connection,
the first driven by the engine's event loop, the second by the threads that wait. What both decide is in `peer`.
`wire` is the frames, `handshake` the first of them, `rpc` the messages. `bulk` is the buffers of large data,
`transport` gives sockets, `address` names them.

`pools` are the pools and xstreams of a server, and `config` its section of a configuration.
"""
