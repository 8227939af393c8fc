"""What an application programs against to stream events; it knows no backend.

`api` has the names that applications import: `Driver`, topics, producers, consumers and events. A backend is a driver
that is found by its name. The two commands for those who write no program are in `ctl` and `benchmarks`.

This package imports nothing of ``mochi``.
"""
