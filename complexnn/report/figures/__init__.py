"""The figures of the notebook and the README: each from rows and grids that runs left behind.

Every function that draws writes one file and returns its caption, which says how many images, which
seeds and which interval. ``structure`` draws the split network, ``grids`` pictures of
reconstructions, ``plots`` everything with axes; ``drawing`` is what they share.
"""
