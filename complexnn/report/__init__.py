"""From the rows that runs leave behind to tables, verdicts and figures.

Start with ``rows``: it reads rows, says which of several counts, and brings seeds of one network
together as :class:`~complexnn.report.rows.Runs`. Tables over many networks take a list of these,
from :func:`~complexnn.report.rows.collect`; tables of single runs (``attack_tables``, ``budgets``)
take their folders.

========================  ==========================================================================
``ranking``               which attack is the strongest, and against which blind answer
``rows``                  rows that count; networks with their seeds (``Runs``)
``cohorts``               networks that were trained alike and may share a line of a table
``notes``                 what stands below tables: flags, and what is unofficial about data
``verdicts``              the rules by which rows decide a claim of the paper
``verdict_tables``        verdicts by claim and by network, and the sentence over all
``published``, ``paper``  the paper's published numbers; its tables with ours beside them, which are
                          those of docs/results.md
``summary``               the README's tables, and variants that were trained on part of the images
``beyond``                the tables of docs/beyond.md
``attack_tables``         one network under every attack; networks side by side
``budgets``               attacks as their training grows
``architectures``         what each architecture costs
``figures``               the pictures of the notebook, the README and docs/results.md
========================  ==========================================================================
"""
