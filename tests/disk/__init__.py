"""Tests of `mochi.disk`: locks on directories."""
