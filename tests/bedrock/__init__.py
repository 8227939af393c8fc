"""Tests of `mochi.bedrock`: configurations, their scripts, and the commands that start and ask servers."""
