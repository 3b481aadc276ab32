"""Measured claims: each script prints a table and keeps it in results/. Run with `python -m benchmarks.NAME`."""
