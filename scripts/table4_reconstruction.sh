#!/usr/bin/env bash
# Reconstruction errors and the grid of pictures (examples/inversion.png in each run folder): every
# network of the first two tables that the paper or the 2021 reproduction attacked.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

{
    scripts/table1_resnet_cifar10.sh --list
    scripts/table2_other_networks.sh --list | grep -v -e celeba -e cub200 -e "kind local"
} | while read -r line; do
    echo "$line"
    victim=${line##*--output-dir }
    control=
    if [[ $victim == *-complex ]]; then
        control="--control ${victim%complex}additional"
    fi
    echo "attack.py inversion --victim $victim $control"
done | campaign "$@"
