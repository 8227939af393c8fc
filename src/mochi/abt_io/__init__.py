"""ABT-IO: file I/O for the storage of a server, on threads that may wait for a disk.

`instance` is the provider, `threads` where it runs operations when a pool cannot wait. `files` are the files of this
machine as its configuration wants them: traced, or bare. `calls` move their bytes by system calls, or read and write
nothing for a benchmark; `uring` moves them by io_urings, each a `ring`.
"""
