"""Train a split network: ``python train.py --help``."""

import sys

from complexnn.cli import run, train_main

if __name__ == "__main__":
    sys.exit(run(train_main))
