"""What chunks are coded to and how fast, beside other compressors: the parts of `python -m benchmarks.codec`."""
