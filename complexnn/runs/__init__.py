"""What a run leaves on disk: weights, states, rows, tables, pictures."""
