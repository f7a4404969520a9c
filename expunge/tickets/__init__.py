"""Data-deletion tickets: lifecycle, store, intake, batches."""
