"""Runs the table of cases against Koma and every peer found, and writes what came out (see scripts/bench-peers)."""
