#!/usr/bin/env bash
# The quickstart, on a machine with nothing but python3 and pip: installs into .venv (or $RRR_VENV), then
# trains a teacher, a student and a distilled student. Arguments go to scripts/quickstart.py.
#   bash scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
exec "${RRR_VENV:-.venv}/bin/python" scripts/quickstart.py "$@"
