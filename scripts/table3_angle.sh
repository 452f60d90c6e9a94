#!/usr/bin/env bash
# Error of the recovered angle, for every complex network of the first two tables.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

{
    scripts/table1_resnet_cifar10.sh --list
    scripts/table2_other_networks.sh --list
} | while read -r line; do
    if [[ $line == *--kind\ complex* ]]; then
        echo "$line"
        echo "attack.py angle --victim ${line##*--output-dir }"
    fi
done | campaign "$@"
