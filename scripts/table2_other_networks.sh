#!/usr/bin/env bash
# Classification errors of LeNet on CIFAR-10 and -100, ResNet-56-α and -110-α on CIFAR-100, VGG-16 on
# CUB-200-2011 and AlexNet on CelebA, with the three strengths of noise, and the control `local`.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

networks() { # networks DATASET ARCH FLAGS: one command for each kind
    local run=runs/$1/$2
    for kind in original additional complex local; do
        echo "train.py --dataset $1 --arch $2 --kind $kind ${*:3} --output-dir $run-$kind"
    done
    for gamma in 0.2 0.5 1.0; do
        echo "train.py --dataset $1 --arch $2 --kind noisy --gamma $gamma ${*:3}" \
            "--output-dir $run-noisy-$gamma"
    done
}

{
    networks cifar10 lenet --epochs 100
    networks cifar100 lenet --epochs 100
    networks cifar100 resnet56 --epochs 100
    networks cifar100 resnet110 --epochs 100
    networks cub200 vgg16 --epochs 100 --batch-size 32 --lr 5e-4
    networks celeba alexnet --lr 1e-3
} | campaign "$@"
