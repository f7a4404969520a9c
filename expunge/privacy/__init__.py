"""What a release of noised weights guarantees: Gaussian mechanism, noise, error bounds, sequential accounting."""
