"""Tests of `mochi.disk`: locks on directories, and the contract of all file layers."""
