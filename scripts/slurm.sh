#!/usr/bin/env bash
# An example for a Slurm cluster: one node, all its GPUs, goes on where it was stopped. Adapt the
# resources; pass train.py's flags:  sbatch scripts/slurm.sh --dataset cifar10 --arch resnet20
#SBATCH --job-name=complexnn
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-gpu=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
# Slurm runs a copy of this script, so its own path says nothing; submit from the repository.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
source scripts/environment.sh

# SIGTERM, two minutes before the end, saves the run; --resume auto goes on from there.
exec .venv/bin/torchrun --standalone --nproc_per_node="${SLURM_GPUS_ON_NODE:-1}" \
    train.py --resume auto "$@"
