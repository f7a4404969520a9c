"""Every field that leaves a workspace, found by walking what it has made, and looked up in one table of classes."""
