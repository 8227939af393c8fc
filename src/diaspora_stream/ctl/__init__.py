"""The command `diaspora-ctl`: `main` finds it, `options` reads arguments, `topic`, `fifo` and `forward` do the work."""
