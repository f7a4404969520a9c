"""Loaders of the catalogue, one file a family."""
