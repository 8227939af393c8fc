"""Key-value databases: sorted byte strings, in memory or on disk, used in place or served as a provider.

`mochi.yokan.database` is the contract, `embedded` carries it out over a backend (`map`, `rocksdb`),
`provider` serves it and `client` calls it. `layout` says how collections of documents lie among the keys.
"""
