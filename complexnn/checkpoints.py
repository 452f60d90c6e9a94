"""``python -m complexnn.checkpoints --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.publish import main

if __name__ == "__main__":
    sys.exit(run(main))
