#!/usr/bin/env bash
# How strong each attack is as its training doubles, and whether wider networks would help: the
# evidence that the attackers have converged. Writes assets/attack_budgets.md.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
run=runs/budgets

{
    for kind in additional complex; do
        echo "train.py --groups parity --kind $kind --output-dir $run/$kind"
    done
    for steps in 500 1000 2000 4000; do
        echo "attack.py all --victim $run/complex --steps $steps --output-dir $run/$steps"
    done
    for only in "dec(x) set" query-free; do # the slowest to converge
        echo "attack.py all --victim $run/complex --steps 8000 --only '$only'" \
            "--output-dir '$run/8000-$only'"
    done
    for steps in 8000 16000 32000; do
        echo "attack.py angle --victim $run/complex --steps $steps --only angle-regressor" \
            "--output-dir $run/$steps-regressor"
    done
    for steps in 500 1000 2000 4000 8000; do # all test images and five draws: a search varies
        echo "attack.py angle --victim $run/complex --budget thorough --steps $steps" \
            "--only critic-search --output-dir $run/$steps-critic"
    done
    # A separation needs several queries under one key.
    echo "train.py --groups parity --group packed --dim 8 --output-dir $run/packed-8"
    for steps in 500 1000 2000 4000 8000; do
        for attack in angle inversion; do
            echo "attack.py $attack --victim $run/packed-8 --steps $steps --only dss" \
                "--output-dir $run/$steps-dss"
        done
    done
    for capacity in 0.5 2.0; do
        echo "attack.py angle --victim $run/complex --capacity $capacity" \
            "--output-dir $run/capacity-$capacity"
    done
    echo "report budgets $run --markdown assets/attack_budgets.md"
} | campaign "$@"
