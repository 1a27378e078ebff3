"""`python -m rrr_lightning` is `rrr`: commands of their own, and Lightning's for all others."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "export": "rrr_lightning.export",
    "glue": "rrr_lightning.glue.command",
    "study": "rrr_lightning.study.command",
}


def main() -> None:
    """Runs the command line."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        importlib.import_module(COMMANDS[name]).main(arguments)
        return
    from rrr_lightning.cli import main as run

    run()


if __name__ == "__main__":
    main()
