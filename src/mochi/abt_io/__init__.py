"""ABT-IO: file I/O for the storage of a server, on threads that may wait for a disk.

`instance` is the provider, `files` the calls on files, `threads` where they run when a pool cannot wait.
"""
