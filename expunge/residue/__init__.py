"""The residue scan: proof that nothing of an erased person is left in the workspace."""
