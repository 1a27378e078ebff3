#!/usr/bin/env bash
# One `rrr fit` over the GPUs of one node, or of several that are told of each other:
#   bash scripts/torchrun.sh resnet50/distill.yaml runs/r50 --data.source /data/imagenet
#   NODES=4 HEAD=node0:29500 bash scripts/torchrun.sh CONFIG FOLDER …      (the same on every node)
# GPUS (by default all of the node) is the number of processes per node. A process that dies takes
# the others down; the next start goes on from the last checkpoint.
set -euo pipefail
if [ "$#" -lt 2 ]; then
    echo "usage: [NODES=N HEAD=host:port] [GPUS=N] bash $0 CONFIG FOLDER [options of rrr fit]" >&2
    exit 2
fi
config="$1"
folder="$2"
shift 2
nodes="${NODES:-1}"
gpus="${GPUS:-$(nvidia-smi --list-gpus | wc -l)}"
if [ "$nodes" -gt 1 ]; then
    meeting=(--rdzv-backend c10d --rdzv-endpoint "${HEAD:?HEAD=host:port of the first node}" --rdzv-id "$folder")
else
    meeting=(--standalone)
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec torchrun --nnodes "$nodes" --nproc-per-node "$gpus" "${meeting[@]}" \
    -m rrr_lightning fit \
    --config "$config" \
    --trainer.default_root_dir "$folder" \
    --trainer.accelerator "${ACCELERATOR:-gpu}" \
    --trainer.num_nodes "$nodes" \
    --trainer.devices "$gpus" \
    --trainer.strategy ddp \
    --ckpt_path last \
    "$@"
