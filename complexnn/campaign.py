"""``python -m complexnn.campaign --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.campaign import main

if __name__ == "__main__":
    sys.exit(run(main))
