"""The pure part: ids, frames, values, trees, nodes, commits and ref names. No I/O, no torch, no lmdb."""
