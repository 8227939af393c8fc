"""Tests of `mochi.flock`: groups of servers, fixed or watched."""
