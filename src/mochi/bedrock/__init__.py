"""Bedrock: from a configuration file to a running server, and changes to it while it runs.

`sources` decodes the file, `conditions` takes out what is not meant for this process, `config` checks the rest,
`modules` finds the components that it names, `dependencies` ties providers together, `server` keeps them, `peers` are
the servers that start together, by `mpi` or under a `supervisor`, `client` asks a server from afar, `jx9` runs the
scripts of conditions and queries, `cli` is the three commands.
"""
