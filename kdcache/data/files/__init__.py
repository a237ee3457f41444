"""Image files: found in folders, decoded, and kept decoded in a file that is mapped."""
