"""Rebuilds a store from a damaged file: from what describes itself and proves itself, wherever it lies in it."""
