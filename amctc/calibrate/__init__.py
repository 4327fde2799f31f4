"""Floor 4: observers that update and merge, float execution over samples, sample sources."""
