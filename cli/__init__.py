"""The `expunge` command."""
