"""Tests of `mochi.mofka.files`: the drivers that need no server."""
