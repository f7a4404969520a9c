"""The experiments: each says what its cells are, runs one, and lays out what was found."""
