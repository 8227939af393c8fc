"""Tests of `mochi.disk`: locks, the contract of all file layers, and who has how many files open."""
