"""Hostile input (P6): every parser of bytes or text that are not ours, fed with what is nearly right."""
