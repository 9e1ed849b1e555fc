"""Figures that anyone can make again. Each module runs by itself: `python -m benchmarks.gc`."""
