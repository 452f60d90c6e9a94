"""``python -m complexnn.linearity --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.measure import linearity

if __name__ == "__main__":
    sys.exit(run(linearity))
