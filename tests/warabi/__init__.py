"""Tests of `mochi.warabi`: targets for blobs, and the RPCs to them."""
