#!/usr/bin/env bash
# Classification errors of LeNet on CIFAR-10 and -100, ResNet-56-α and -110-α on CIFAR-100, AlexNet on
# CelebA and VGG-16 on CUB-200-2011, with the three strengths of noise, and the control `local`.
#   scripts/table2_other_networks.sh [--cpu | --gpu] [--available] [--dry-run] ...
# --available leaves out what has no data here. The budgets: scripts/budget.sh.
set -euo pipefail
source "$(dirname "$0")/environment.sh"
source scripts/budget.sh

networks() { # networks DATASET NETWORK KINDS SEED FLAGS...
    local kind
    for kind in $3; do
        case $kind in
        noisy-*) train "$1/$2-$kind" "$4" "--dataset $1 --kind noisy --gamma ${kind#noisy-} ${*:5}" ;;
        *) train "$1/$2-$kind" "$4" "--dataset $1 --kind $kind ${*:5}" ;;
        esac
    done
}

some="original additional complex local"
every="$some noisy-0.2 noisy-0.5 noisy-1.0"
{
    for seed in 0 1 2; do
        networks cifar10 lenet "$every" $seed
        networks cifar100 lenet "$every" $seed
    done
    networks celeba alexnet "$some" 0 --arch alexnet --resize 64 --lr 1e-3
    networks cifar100 resnet56-alpha "$every" 0 --arch resnet56 "$recipe"
    networks cifar100 resnet110-alpha "$every" 0 --arch resnet110 "$recipe"
    networks cub200 vgg16 "$every" 0 --arch vgg16 --batch-size 32 --lr 5e-4
} | run_paper
