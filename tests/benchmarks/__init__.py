"""The benchmarks work: their statistics and reports, and every row once with a small state. Nothing here is timed."""
