"""Tests of the deployments that are documented: each configuration and command, word for word."""
