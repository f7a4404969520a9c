"""MLflow's own pages, as an auditor sees them."""
