"""Tests of `mochi.abt_io`: operations on files, by threads and by io_uring."""
