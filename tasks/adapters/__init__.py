"""Adapters: the one place where each outside tool is called."""
