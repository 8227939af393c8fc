"""Tests of `mochi.mofka.chunks`: the files of a partition, whatever happens to them."""
