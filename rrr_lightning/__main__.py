"""`python -m rrr_lightning` is `rrr`."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
    from rrr_lightning.cli import main as run

    run()


if __name__ == "__main__":
    main()
