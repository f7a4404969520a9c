"""Unlearning mechanisms, one file each, and the planner that chooses among them."""
