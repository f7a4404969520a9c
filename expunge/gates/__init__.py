"""Decisions that attacks lead to: whether a release passes, contradicts its certificate, or needs a closer look."""
