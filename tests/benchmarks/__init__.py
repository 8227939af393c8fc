"""Tests of the programs in `benchmarks`: each of them measures a row."""
