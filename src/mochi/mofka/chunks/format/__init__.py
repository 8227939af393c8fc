"""The bytes of a partition's directory, and nothing else: the only place of `struct` and numpy dtypes. No I/O."""
