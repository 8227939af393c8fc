"""Tests of `diaspora_stream`: what all drivers share, and the commands."""
