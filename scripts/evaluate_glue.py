"""Fine-tunes a checkpoint on GLUE and reports the scores: the same as `rrr glue`.

    python scripts/evaluate_glue.py --checkpoint last.ckpt --data nyu-mll/glue --out runs/glue

`docs/glue.md` says what it does; `--help` lists the options.
"""

from __future__ import annotations

import sys

from rrr_lightning.commands import COMMANDS, run

if __name__ == "__main__":
    run(lambda: COMMANDS["glue"].run(sys.argv[1:]))
