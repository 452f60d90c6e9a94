"""Data sets and their splits; images in memory or on disk; tasks made of labels.

Start with :func:`complexnn.data.datasets.load`: it calls the reader of one data set (``digits``,
``cifar``, ``folder``, …), lets ``groupings`` say what the victim learns, splits, and returns
:class:`complexnn.data.images.Dataset`. A new data set is a file with a ``Spec`` and a line in
``datasets.DATASETS``.
"""
