#!/usr/bin/env bash
# Runs the fast tests with the lowest versions that the ranges in pyproject.toml allow, in an
# environment of its own (.venv-lowest, or $RRR_VENV).
#   bash scripts/test_lowest.sh
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${RRR_VENV:-.venv-lowest}"
if [ ! -x "$venv/bin/uv" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check uv
fi
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --resolution lowest-direct -e ".[dev,timm]"
# Old versions warn about the newer ones that they meet: here only failures count.
exec "$venv/bin/python" -m pytest -q -W default "$@"
