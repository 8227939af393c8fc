"""Tests of `mochi.mofka`: partitions and their providers."""
