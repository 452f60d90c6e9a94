"""What a run leaves on disk: weights, states, rows, tables, pictures.

Start with ``checkpoint`` (weights, the state to go on from, files that are written whole) and
``results`` (``config.json`` and the rows). ``tables`` and ``pictures`` are what people look at.
What every run needs while it works: ``seeds``, where its random numbers come from; ``devices``, on
which it runs and in which precision; ``progress``, how far it is, and its end on a signal.
"""
