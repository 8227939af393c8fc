"""Jx9, the small language of conditions, queries and generated configurations. Pure: no file, socket or environment.

`grammar.lark` and `parser` turn text into the nodes of `syntax`. `interpreter` runs these, with the values of `values`,
the operators of `operators` and the functions of `builtins`. Everything is paid for at the meter of `limits`. Start at
`interpreter.run` and `interpreter.holds`.

The language is PHP-like: variables need no declaration, an unknown one is null, and values are compared loosely.
Arrays and objects are shared: what one holder does to them, all see. See docs/jx9.md.

A script costs about 1 µs a step. The first one of a process costs 0.15 s more, for building the parser.
"""
