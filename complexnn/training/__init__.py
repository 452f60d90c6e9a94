"""Training and testing: the loop, the task, and the terms beside it.

Start with ``loop``: ``fit`` goes through the epochs, ``train_one_epoch`` through the batches of
one, ``train_step`` takes one step; ``Training`` is what a run holds while it trains.

- ``terms``: what is added to the task's loss: the paper's critic, and defences beside it.
- ``optimiser``: how weights move; ``compiling``: ``--compile``.
- ``checks``: what a training needs, before its first step.
- ``evaluation``: a network's error on images, for validation and for the test.
"""
