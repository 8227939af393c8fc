"""Flock: who the members of a service are.

`group_file` reads and writes the group file, `bootstrap` finds a way to a group, `client` asks a member for its view,
`provider` is a member. `centralized` and `swim` decide who is dead, where a group watches its members; `watch`
asks them.
"""
