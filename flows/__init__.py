"""Prefect flows: each a checklist on one screen."""
