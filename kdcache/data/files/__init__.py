"""Image files: found in folders, and decoded at once or when they are looked at."""
