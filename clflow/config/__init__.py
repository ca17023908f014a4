"""The schema of params.yaml, its layers, and errors that name the key."""
