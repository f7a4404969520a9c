"""Side-by-side measurements: every figure from one run, with its hardware."""
