"""Time and memory of networks, beside other libraries, and as sizes grow.

Start with ``bench``: networks take turns in one process, and a ratio is a median over rounds.
``competitors`` has the same networks in plain PyTorch and from complex-valued libraries; ``memory``
measures one step at its height; ``scaling`` times steps as batch, parts, pixels and depth grow.
``commands/bench.py`` and ``commands/scaling.py`` print what these return.
"""
