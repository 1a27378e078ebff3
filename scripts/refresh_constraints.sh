#!/usr/bin/env bash
# Resolves every dependency anew, transitive ones and extras included, and writes constraints.txt:
# names and versions alone, one resolution for all supported Python versions and platforms.
#   bash scripts/refresh_constraints.sh
set -euo pipefail
cd "$(dirname "$0")/.."
{
    echo "# Every dependency, pinned. Written by scripts/refresh_constraints.sh; do not edit."
    uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --upgrade \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet
} > constraints.txt.part
mv constraints.txt.part constraints.txt
echo "constraints.txt: $(grep -c '==' constraints.txt) pins"
