#!/usr/bin/env bash
# Everything, and the table of it:
#   scripts/reproduce.sh --quick | --full | --paper [--cpu | --gpu]  [--dry-run] [FLAGS]
# --quick: about 15 minutes on two cores, on digits, which need no download.
# --full: scripts/readme_numbers.sh, on Fashion-MNIST and CIFAR-10 as JPEGs; hours on two cores.
# --paper: every table of the paper, on its data sets, what shows most for its time first: 100 epochs
#   (--gpu, the default), days on a GPU, or 20 (--cpu), days on two cores. --dry-run tells how long.
set -euo pipefail
source "$(dirname "$0")/environment.sh"

quick() {
    local run=runs/quick
    for kind in original additional local complex; do
        echo "train.py --groups parity --kind $kind --output-dir $run/lenet-$kind"
    done
    for gamma in 0.2 0.5 1.0; do
        echo "train.py --groups parity --kind noisy --gamma $gamma --output-dir $run/lenet-noisy-$gamma"
    done
    echo "train.py --groups parity --group packed --dim 4 --output-dir $run/lenet-packed"
    for variant in alpha beta; do
        for kind in original additional complex; do
            echo "train.py --groups parity --arch resnet20 --variant $variant --kind $kind" \
                "--output-dir $run/resnet20-$variant-$kind"
        done
    done
    for victim in lenet-{original,additional,noisy-0.2,noisy-0.5,noisy-1.0} resnet20-alpha-additional; do
        echo "attack.py all --victim $run/$victim --budget quick"
    done
    for victim in lenet-{complex,packed} resnet20-alpha-complex; do
        echo "attack.py all --victim $run/$victim --control $run/${victim%-*}-additional" \
            "--budget quick"
    done
    echo "report tables $run --html $run/report.html"
}

full() {
    scripts/readme_numbers.sh --list
    scripts/beyond.sh --list
    echo "report tables runs/reproduction --html runs/reproduction/report.html"
}

paper() {
    local number
    {
        for number in 1 2 3 4 5; do
            table $number
        done
        scripts/baselines.sh --list | grep -v '^report'
    } | by_value
    echo "report tables $root runs/fashion-mnist --html $root/report.html"
}

case ${1:-} in
--quick) quick | campaign "${@:2}" ;;
--full) full | campaign "${@:2}" ;;
--paper)
    shift
    source scripts/budget.sh
    paper | run_paper
    ;;
*)
    echo "error: say --quick, --full or --paper; see the head of $0" >&2
    exit 2
    ;;
esac
