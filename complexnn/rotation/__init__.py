"""The algebra: layers that commute with every rotation of the parts, and a check that they do."""
