#!/usr/bin/env bash
# Beyond the paper: what rotation can hide, mapped on networks with a thin device and a small
# release, beside the defences it competes with; how linear rotated servers and how Gaussian features
# are; and interactive offload. About nine hours on one core. Flags: --dry-run, --device, ...
#
# CIFAR-10 as JPEGs is an image folder, see scripts/readme_numbers.sh; CIFAR10_JPEG=DIR tells where
# it lies.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

root=runs/reproduction/beyond
flags="--dataset folder --data-dir $(printf %q "${CIFAR10_JPEG:-data/cifar10-jpeg}")"

# early FLAGS...: rotated networks date from before decoys came from closed blocks.
early() {
    [[ "$*" == *"--kind "* && "$*" != *"--kind complex"* ]] || echo "--counterparts batch"
}

# train [full/]ARCH NAME FLAGS...: five epochs, or as many as the README's networks.
train() {
    local epochs=5
    [[ $1 == full/* ]] && epochs=40
    echo "train.py $flags --epochs $epochs --arch ${1#full/} ${*:3} $(early "${@:3}") --precision bf16 --output-dir $root/$1/$2"
}

# rotated ARCH NAME FLAGS...: without the critic, which hides nothing and doubles the work.
rotated() {
    train "$1" "$2" "${*:3} --adversarial-weight 0"
}

trainings() {
    for arch in thin4 thin1 thin4-linear; do
        train "$arch" additional --kind additional
        train "$arch" local --kind local
    done
    rotated thin4 decoy-2 ""
    rotated thin4 decoy-2-mixing --gate mixing
    for dim in 2 8 32 128; do
        rotated thin4 "packed-$dim" --group packed --dim "$dim"
    done
    rotated thin4 packed-8-mixing --group packed --dim 8 --gate mixing
    # Any linear map beside the gates: what do gates add? (What is released is as in thin4.)
    rotated thin4-linear decoy-2 ""
    rotated thin4-linear decoy-2-mixing --gate mixing
    rotated thin4-linear packed-8 --group packed --dim 8
    # As many parts as numbers: the span holds everything. With decoys of eight times the features'
    # bound, 64 numbers, r = 1 and m = 19: (4, 1e-6)-private in one pass.
    rotated thin1 packed-64 --group packed --dim 64
    rotated thin1 packed-64-private --group packed --dim 64 --gaussian-decoys 82 --decoy-scale 8
    for gamma in 0.5 1.0 2.0; do
        train thin4 "noisy-$gamma" --kind noisy --gamma "$gamma"
    done
    train thin4 quantise --kind additional --defence quantise --bits 1
    train thin4 nopeek --kind additional --defence nopeek
    # Against a decoder of what is released; packed, against the denoiser that separates groups.
    train thin4 decoder --kind additional --defence decoder
    rotated thin4 packed-8-decoder --group packed --dim 8 --defence decoder
    # Trained on animals and vehicles only: the ten classes are the hidden property.
    for kind in additional local; do
        train thin4 "kinds-$kind" --kind "$kind" --groups scripts/cifar10_kinds.json
    done
    rotated thin4 kinds-decoy-2 --groups scripts/cifar10_kinds.json
    rotated thin4 kinds-packed-8 --group packed --dim 8 --groups scripts/cifar10_kinds.json
    # Is it the seed? What keeps most with decoys and packed, and what the worth is measured by.
    for seed in 1 2; do
        train thin4 "additional-seed$seed" --kind additional --seed "$seed"
        train thin4 "local-seed$seed" --kind local --seed "$seed"
        rotated thin4 "packed-8-mixing-seed$seed" --group packed --dim 8 --gate mixing --seed "$seed"
        rotated thin4 "decoy-2-mixing-seed$seed" --gate mixing --seed "$seed"
    done
    # Is it the short training? What hides without training against attackers, and noise, eight
    # times as long.
    for arch in full/thin4 full/thin1; do
        train "$arch" additional --kind additional
        train "$arch" local --kind local
    done
    rotated full/thin4 packed-8-mixing --group packed --dim 8 --gate mixing
    train full/thin4 noisy-1.0 --kind noisy --gamma 1.0
    rotated full/thin1 packed-64 --group packed --dim 64
}

# attack WHAT VICTIM BUDGET FLAGS...: with the unprotected network beside it.
attack() {
    local kinds=
    [[ $2 == */kinds-* ]] && kinds=kinds-
    local control="--control $root/${2%/*}/${kinds}additional"
    [[ $2 == *additional ]] && control=
    echo "attack.py $1 --victim $root/$2 $control --budget $3 --precision bf16 ${*:4}"
}

attacks() {
    for victim in thin4/{additional,decoy-2{,-mixing},packed-{2,8,8-mixing,8-decoder}} \
        thin4/{noisy-{0.5,1.0,2.0},quantise,nopeek,decoder} thin1/additional thin4/kinds-{additional,decoy-2,packed-8} \
        full/thin4/{additional,packed-8-mixing,noisy-1.0} full/thin1/additional; do
        attack all "$victim" quick
    done
    # Searches for each of many keys would take hours.
    for victim in thin4/packed-{32,128} thin1/packed-64{,-private} full/thin1/packed-64; do
        attack span "$victim" quick
        attack inversion "$victim" quick --only "'dec(x)'"
    done
    # The denoiser is far from finished after a quick budget.
    for victim in thin4/packed-{8,8-decoder,32,128} thin1/packed-64{,-private} \
        full/thin4/packed-8-mixing full/thin1/packed-64; do
        attack angle "$victim" standard --only "'dss|mean'"
        attack release "$victim" standard
        attack inversion "$victim" standard --only dss
    done
    for victim in thin4/packed-{32,128} thin1/packed-64{,-private} full/thin1/packed-64; do
        attack intersection "$victim" standard # eight releases
    done
    attack property thin4/kinds-packed-8 standard --only dss
    # An encoder that was trained against a decoder stands up to one that is trained briefly.
    attack inversion thin4/decoder standard --only "'dec(x)'"
    attack inversion full/thin4/noisy-1.0 standard --only "'dec('" # beside packed-8-mixing
    attack angle thin4/packed-8-decoder standard --only dss --steps 4000
    for victim in thin4/{decoy-2{,-mixing},packed-{2,8,32,128},packed-8-mixing} \
        thin4-linear/{decoy-2{,-mixing},packed-8} thin4/kinds-{decoy-2,packed-8} \
        thin1/packed-64{,-private} full/thin4/packed-8-mixing full/thin1/packed-64; do
        echo "linearity --victim $root/$victim"
        echo "gaussianity --victim $root/$victim"
    done
    # A released feature of the inner layers has 4,096 numbers: groups must be large.
    echo "offload --victim $root/thin4/additional --group-size 2000 --limit-test 2000"
}

{
    trainings
    attacks
} | campaign "$@"
