"""Tests of the commands of all packages: options, help, hints, log lines."""
