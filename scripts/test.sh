#!/usr/bin/env bash
# Install into .venv if need be, then lint, run every test, and run the notebook.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
install requirements-dev.txt

.venv/bin/python -m ruff check .
.venv/bin/python -m ruff format --check .
# One thread for each of the test processes: more would fight over the cores.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto "$@"
.venv/bin/python -m pytest --nbmake results.ipynb
