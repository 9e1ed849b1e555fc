"""A whole training run: captured, committed when due, and put back so that it goes on bit for bit."""
