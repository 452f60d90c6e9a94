"""Train a split network: ``python train.py --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.train import main

if __name__ == "__main__":
    sys.exit(run(main))
