"""Makers of the golden fixtures; see scripts/golden.py."""
