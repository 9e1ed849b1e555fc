"""Figures that anyone can make again: `python -m benchmarks` against peers, `python -m benchmarks.gc` and others alone."""
