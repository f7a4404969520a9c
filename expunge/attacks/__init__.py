"""Attacks: they bound a guarantee from below, so they can fail a model and never prove one."""
