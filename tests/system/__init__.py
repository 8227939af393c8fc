"""Tests of whole services: processes that are started, loaded, frozen, killed and started again."""
