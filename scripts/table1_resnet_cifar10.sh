#!/usr/bin/env bash
# Classification errors of ResNet-20 to -110 on CIFAR-10, both splits: original, with generator, and
# complex. Flags: --dry-run, --data-dir, --device, ... (python -m complexnn.campaign --help).
set -euo pipefail
source "$(dirname "$0")/environment.sh"

for depth in 20 32 44 56 110; do
    for variant in alpha beta; do
        for kind in original additional complex; do
            echo "train.py --dataset cifar10 --arch resnet$depth --variant $variant --kind $kind" \
                "--epochs 100 --output-dir runs/cifar10/resnet$depth-$variant-$kind"
        done
    done
done | campaign "$@"
