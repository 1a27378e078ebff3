"""`python -m rrr_lightning` is `rrr`."""

from rrr_lightning.commands import main

if __name__ == "__main__":
    main()
