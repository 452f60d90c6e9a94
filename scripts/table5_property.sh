#!/usr/bin/env bash
# Inference of properties that the victim never learned: the 100 classes of CIFAR-100 behind the 20
# superclasses, and 10 attributes of CelebA behind the other 30.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

{
    for kind in additional complex; do
        echo "train.py --dataset cifar100 --groups superclasses --arch resnet56 --kind $kind" \
            "--epochs 100 --output-dir runs/cifar100-superclasses/resnet56-$kind"
        echo "train.py --dataset celeba --arch alexnet --kind $kind --lr 1e-3" \
            "--output-dir runs/celeba/alexnet-$kind"
    done
    for run in runs/cifar100-superclasses/resnet56 runs/celeba/alexnet; do
        echo "attack.py property --victim $run-additional"
        echo "attack.py property --victim $run-complex --control $run-additional"
    done
} | campaign "$@"
