"""What a run draws, shows and leaves on disk. Start with ``checkpoint`` (weights, the state to go
on from, files that are written whole) and ``results`` (``config.json`` and the rows); ``seeds`` is
where every random number of a run comes from."""
