"""``python -m complexnn.scaling --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.scaling import main

if __name__ == "__main__":
    sys.exit(run(main))
