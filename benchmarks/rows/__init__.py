"""The rows: each says what it must reach, and measures it. A row runs in a process of its own."""
