"""``python -m complexnn.bench --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.bench import main

if __name__ == "__main__":
    sys.exit(run(main))
