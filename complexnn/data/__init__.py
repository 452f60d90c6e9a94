"""Data sets and their splits; images in memory or on disk; tasks made of labels.

Start with :func:`complexnn.data.datasets.load`: it calls the reader of one data set (``digits``,
``cifar``, ``folder``, …), lets ``groupings`` say what the victim learns, splits, and returns
:class:`complexnn.data.images.Dataset`.

To add a data set, write a file with a reader, which returns a ``spec.Raw``, and a ``spec.Spec``,
whose fields say all that other folders ask about it. Put the ``Spec`` into ``datasets.DATASETS``.
Then name the set in words: in the README's list of them and, where they apply, in the help of
``--data-dir`` and ``--resize`` (``config.DataConfig``).
"""
