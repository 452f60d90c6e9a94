"""``python -m complexnn.report --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.report import main

if __name__ == "__main__":
    sys.exit(run(main))
