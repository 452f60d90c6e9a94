#!/usr/bin/env bash
# Error of the recovered angle, for every complex network of the first two tables (one seed of each):
# by attacks on a single query, and by one on a whole release.
#   scripts/table3_angle.sh [--cpu | --gpu] [--available] [--dry-run] ...
set -euo pipefail
source "$(dirname "$0")/environment.sh"
source scripts/budget.sh

{
    table 1
    table 2
} | while read -r line; do
    victim=${line##*--output-dir }
    if [[ $victim == *-complex ]]; then
        echo "$line"
        attack angle "$victim"
        attack release "$victim"
    fi
done | run_paper
