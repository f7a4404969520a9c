"""The model zoo, training, and the saved form of a model."""
