"""Measurements of trained networks that are no attacks."""
