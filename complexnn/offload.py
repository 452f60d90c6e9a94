"""``python -m complexnn.offload --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.measure import offload

if __name__ == "__main__":
    sys.exit(run(offload))
