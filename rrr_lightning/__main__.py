"""`python -m rrr_lightning` is `rrr`: commands of their own, and Lightning's for all others."""

from __future__ import annotations

import importlib
import sys

from rrr_lightning.errors import did_you_mean

COMMANDS = {
    "export": "rrr_lightning.export",
    "glue": "rrr_lightning.glue.command",
    "study": "rrr_lightning.study.command",
    "targets": "rrr_lightning.targets.command",
}
LIGHTNING = ("fit", "validate", "test", "predict")


def main() -> None:
    """Runs the command line."""
    name, *arguments = sys.argv[1:] or [""]
    commands = (*LIGHTNING, *COMMANDS)
    if not name.startswith("-") and name not in commands:
        what = f"no such command; found {name!r}" if name else "a command is missing"
        hint = did_you_mean(name, commands)
        sys.stderr.write(f"rrr: error: {what}{hint}; accepted: {', '.join(commands)}\n")
        sys.exit(2)
    if name in COMMANDS:
        importlib.import_module(COMMANDS[name]).main(arguments)
        return
    from rrr_lightning.cli import main as run

    run()


if __name__ == "__main__":
    main()
