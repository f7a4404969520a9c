"""Prefect tasks: one module a step of the erase flow."""
