"""Tests of the modules in `compat`, which have the original's names."""
