"""What keeps dependencies in order: their versions, and whether one is known to be unsafe."""
