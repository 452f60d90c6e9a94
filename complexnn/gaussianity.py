"""``python -m complexnn.gaussianity --help``."""

import sys

from complexnn.commands.app import run
from complexnn.commands.measure import gaussianity

if __name__ == "__main__":
    sys.exit(run(gaussianity))
