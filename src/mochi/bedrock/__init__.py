"""Bedrock: from a configuration file to a running server, and changes to it while it runs.

- `sources` decodes the file; `conditions` takes out what is not meant for this process; `config` checks the rest.
- `modules` finds the components that a configuration names, and `dependencies` ties providers together.
- `server` keeps the providers; `peers` are the servers that start together, by `mpi` or under a `supervisor`.
- `queries` and `jx9` run the scripts of clients; `client` asks a server from afar.
- `cli` is the commands ``bedrock``, ``bedrock-query`` and ``bedrock-shutdown``; `bedrockctl` is the fourth.
"""
