"""Tests of `mochi.yokan`: databases, and the RPCs to them."""
