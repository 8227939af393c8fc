"""Tests of programs as users write them, each against a whole service."""
