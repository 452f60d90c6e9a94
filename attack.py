"""Attack a trained network: ``python attack.py --help``."""

import sys

from complexnn.cli import attack_main, run

if __name__ == "__main__":
    sys.exit(run(attack_main))
