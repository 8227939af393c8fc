"""The command `diaspora-ctl`: `main` finds the command, `options` reads arguments, `topic` does the work."""
