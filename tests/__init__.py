"""Tests of Mofka: a directory for each package in `src`, and four that run whole services and programs."""
