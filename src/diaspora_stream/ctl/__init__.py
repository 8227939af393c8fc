"""The command `diaspora-ctl`, for those who do not write a program.

`main` finds the command and `options` reads arguments. `topic` manages topics, `fifo` connects them with pipes, and
`forward` copies them.
"""
