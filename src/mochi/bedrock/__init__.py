"""Bedrock: from a configuration file to a running server, and changes to it while it runs.

`config` checks the file, `modules` finds the components that it names, `dependencies` ties providers
together, `server` keeps them, `client` asks a server from afar, `cli` is the three commands.
"""
