"""``python -m complexnn --help``."""

import sys

from complexnn.commands.main import command

if __name__ == "__main__":
    sys.exit(command())
