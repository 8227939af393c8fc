"""Tests of `mochi.margo`: calls over each transport, pools, budgets and the wire format."""
