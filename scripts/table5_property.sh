#!/usr/bin/env bash
# Inference of properties that the victim never learned: the 100 classes of CIFAR-100 behind the 20
# superclasses, and 10 attributes of CelebA behind the other 30.
#   scripts/table5_property.sh [--cpu | --gpu] [--available] [--dry-run] ...
set -euo pipefail
source "$(dirname "$0")/environment.sh"
source scripts/budget.sh

victims=(cifar100-superclasses/resnet56-alpha celeba/alexnet)
{
    for kind in original additional complex; do
        train "${victims[0]}-$kind" 0 \
            "--dataset cifar100 --groups superclasses --arch resnet56 --kind $kind $recipe"
    done
    table 2 | grep celeba | grep -v "kind local"
    for victim in "${victims[@]}"; do
        attack property "$root/$victim-original"
        attack property "$root/$victim-additional"
        attack property "$root/$victim-complex" "$root/$victim-additional"
    done
} | run_paper
