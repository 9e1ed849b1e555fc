"""Other ways to save a state, each a file: durable when `save` returns, every save kept where the peer can keep it."""
