#!/usr/bin/env bash
# Lint, types and tests, on a machine with nothing but python3 and pip. Arguments go to pytest; without
# any, the tests that take seconds run (markers slow, ddp and gpu are left out). There is a process for
# every core, up to four of them; `-n 0` is for one after the other.
#   bash scripts/test.sh
#   bash scripts/test.sh -m "not gpu"
#   bash scripts/test.sh --cov
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh dev,timm
bin="${RRR_VENV:-.venv}/bin"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
exec "$bin/python" -m pytest -q -n auto --maxprocesses 4 --dist loadfile "$@"
