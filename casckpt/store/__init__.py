"""Ordered bytes under names, in transactions: the LMDB store, and the in-memory model that tests hold it against.

This layer knows ids and bytes; what a commit or a branch is, the layers above know.
"""
