#!/usr/bin/env bash
# Classification errors of ResNet-20 to -110 on CIFAR-10, both splits: original, with generator, and
# complex.
#   scripts/table1_resnet_cifar10.sh [--cpu | --gpu] [--dry-run] [--data-dir DIR] [--device NAME] ...
# The budgets: scripts/budget.sh. The other flags: python -m complexnn.campaign --help.
#
# The splits differ in which layers the server has. Where nothing is rotated, that changes neither the
# network nor what it releases: `original` and `additional` are trained once, as alpha, and stand in
# beta's rows, too.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
source scripts/budget.sh

complex() { # complex DEPTH VARIANT SEED
    train "cifar10/resnet$1-$2-complex" "$3" \
        "--dataset cifar10 --arch resnet$1 --variant $2 --kind complex $recipe"
}

plain() { # plain DEPTH KIND SEED
    train "cifar10/resnet$1-alpha-$2" "$3" "--dataset cifar10 --arch resnet$1 --kind $2 $recipe"
}

{
    for depth in 20 32 44 56 110; do
        plain $depth original 0
        plain $depth additional 0
        complex $depth alpha 0
        complex $depth beta 0
    done
    plain 20 local 0 # what the server's layers are worth
    for seed in 1 2; do
        plain 20 original $seed
        plain 20 additional $seed
        complex 20 alpha $seed
    done
} | run_paper
