"""Where the events of a partition are kept, by its type: `memory`, `default` or `legacy`.

`contract` says what a partition is to its provider. `commits` puts the batches of a `default` one into files, and
`tail` keeps the newest of them in memory. `config` has the fields of configurations, with their defaults.
"""
