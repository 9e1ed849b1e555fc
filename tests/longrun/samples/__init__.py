"""Recipes that hold, break and hang, for the tests of the long run."""
