"""ABT-IO: file I/O for the storage of a server, on threads that may wait for a disk.

`instance` is the provider, `files` the calls on files, `threads` where they run when a pool cannot wait. `calls`
are the system calls behind them; `uring` makes them through io_urings, each a `ring`.
"""
