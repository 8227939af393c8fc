"""Mofka, the event service: partitions on servers, and drivers for applications.

On servers, `module` is what Bedrock loads, `provider` serves one partition, and `partition` keeps its events, in memory
or by `chunks` in files. `topics` makes, extends and deletes topics, whose records are in the `registry`.

For applications, `client` is the driver ``mofka``, and `files` has the drivers that need no server. `protocol` is what
clients and servers say to each other. `mofkactl` and `fsck` are commands.
"""
