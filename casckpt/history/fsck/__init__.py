"""Checks a whole store, and says of each thing that is wrong what it is, what it hurts and what to do."""
