"""Attack a trained network: ``python attack.py --help``."""

import sys

from complexnn.commands.attack import command

if __name__ == "__main__":
    sys.exit(command())
