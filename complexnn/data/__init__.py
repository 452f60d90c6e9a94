"""Data sets and their splits; images in memory or on disk; tasks made of labels."""
