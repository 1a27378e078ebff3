#!/usr/bin/env bash
# The quickstart, on a machine with nothing but python3 and pip: installs into .venv (or $RRR_VENV), then
# runs a whole study on embedded digits and prints its answer. Further options go to `rrr study run`.
#   bash scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
exec "${RRR_VENV:-.venv}/bin/rrr" study run study/quickstart.yaml --out runs/study/quickstart "$@"
