#!/usr/bin/env bash
# Other defences of the same network under the same attacks: noise, dropout, quantisation, NoPeek and
# a decoder trained along. Fashion-MNIST, whose classes are the property hidden behind three kinds.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
run=runs/fashion-mnist/lenet

{
    for kind in additional complex noisy local; do
        echo "train.py --dataset fashion-mnist --groups kinds --kind $kind --output-dir $run-$kind"
    done
    for defence in laplace dropout quantise nopeek decoder; do
        echo "train.py --dataset fashion-mnist --groups kinds --kind additional" \
            "--defence $defence --output-dir $run-$defence"
    done
    echo "attack.py all --victim $run-additional"
    for victim in complex noisy laplace dropout quantise nopeek decoder; do
        echo "attack.py all --victim $run-$victim --control $run-additional"
    done
    echo "report tables $(dirname $run)"
} | campaign "$@"
