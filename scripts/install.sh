#!/usr/bin/env bash
# Makes a virtual environment (by default .venv, or $RRR_VENV) and installs this checkout into it with
# the pinned versions of constraints.txt. Takes the extras to install as its argument:
#   bash scripts/install.sh dev,timm
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${RRR_VENV:-.venv}"
extras="${1:+[$1]}"
if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
fi
if [ ! -x "$venv/bin/uv" ]; then
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check uv -c constraints.txt
fi
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" -c constraints.txt -e ".$extras"
