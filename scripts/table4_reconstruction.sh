#!/usr/bin/env bash
# Reconstruction errors and the grid of pictures (examples/inversion.png in each run folder): every
# network on CIFAR images that the paper or the 2021 reproduction attacked, one seed of each.
#   scripts/table4_reconstruction.sh [--cpu | --gpu] [--dry-run] ...
set -euo pipefail
source "$(dirname "$0")/environment.sh"
source scripts/budget.sh

{
    table 1
    table 2 | grep -v -e celeba -e cub200 -e cifar100/resnet110
} | grep -v -e "kind local" -e "-seed[0-9]*$" | while read -r line; do
    echo "$line"
    victim=${line##*--output-dir }
    control=
    if [[ $victim == *-complex ]]; then
        control=${victim/-beta-/-alpha-} # not rotated, both release the same
        control=${control%complex}additional
    fi
    attack inversion "$victim" $control
done | run_paper
