"""Both ends of a connection, without I/O: who may say what, who is let in, and what is held for whom."""
