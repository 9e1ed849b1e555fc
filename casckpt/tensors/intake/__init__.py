"""Whole folders of checkpoints that other programs wrote, taken in one by one as one history."""
