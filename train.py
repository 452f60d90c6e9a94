"""Train a split network: ``python train.py --help``."""

import sys

from complexnn.commands.train import command

if __name__ == "__main__":
    sys.exit(command())
