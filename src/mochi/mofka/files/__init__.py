"""The embedded drivers: topics in a directory (``files``) or in memory (``simple``), without a server.

A directory is the service: any processes that see it have its topics. Each partition has one process that writes it
at a time, and any number that read it, which see new events as they are committed. `directory` is what a root
directory has. `storage` opens a partition in either layout: the chunk files, or what the original's driver writes
(`original`). `lane` is the way of a producer's events to a partition, `watching` is how consumers learn of new ones,
`cursors` tells where they are.
"""
