#!/usr/bin/env bash
# From nothing to a table and a page of pictures in a few minutes on a CPU: train three LeNets on
# digits' parity, attack each, and compare. What the victims never learn, the digit, is the hidden
# property.
set -euo pipefail
if (($#)); then
    echo "error: quickstart.sh takes no flags, got $1; its commands are short: copy and change them" >&2
    exit 2
fi
source "$(dirname "$0")/environment.sh"
python=.venv/bin/python
runs=runs/quickstart

for kind in original additional complex; do
    "$python" train.py --groups parity --kind "$kind" --output-dir "$runs/$kind" --overwrite
done
for kind in original additional; do
    "$python" attack.py all --victim "$runs/$kind" --budget quick
done
"$python" attack.py all --victim "$runs/complex" --control "$runs/additional" --budget quick

"$python" -m complexnn.report runs "$runs"/{original,additional,complex} \
    --html "$runs/report.html" --picture assets/quickstart.png
