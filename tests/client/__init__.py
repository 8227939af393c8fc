"""Tests of `mochi.mofka.client`, most of them over a real server."""
