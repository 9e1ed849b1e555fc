"""Figures that anyone can make again: `python -m benchmarks`, and others, such as `python -m benchmarks.gc`."""
