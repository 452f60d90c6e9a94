"""What a run leaves on disk: weights, states, rows, tables, pictures.

Start with ``checkpoint`` (weights, the state to go on from, files that are written whole) and
``results`` (``config.json`` and the rows); ``seeds`` is where a run's random numbers come from.
"""
