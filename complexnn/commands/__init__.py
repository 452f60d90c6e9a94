"""The commands: their flags, what they print and how they end; many of them as a campaign.

Start with ``train``: a command is a ``main`` that gets its flags from ``app.parse`` and is started
by ``app.run``, which turns how it ends into an exit status. ``main`` knows every command by its
name, for ``complexnn NAME``.

- A training run: ``train.main`` reads flags or a saved configuration, builds, trains and tests;
  ``run_folder`` says whether the folder is free and writes into it what the run leaves.
- An attack: ``attack.main`` opens the victim, its data and a control.
- A campaign, from its lines to processes: ``campaign.main`` reads them; ``jobs`` looks each up in
  its run folder and says which waits for which; ``plan`` finds their data and asks ``estimates``
  for time and disk; ``scheduler`` runs them side by side, or ``cluster`` hands them to Slurm.
- ``measure``: linearity, gaussianity and offload. ``report``: tables. ``publish``, which is
  ``python -m complexnn.checkpoints``: published networks. ``bench`` and ``scaling``: speed.
"""
