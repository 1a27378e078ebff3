"""`study.json`: which study an output folder is of, so that nothing of another gets into it.

A later call may add arms, durations, seeds and teachers. Anything else that differs is refused,
above all the quality target and the headline cell, which are fixed before the runs. Records go
nowhere without it, for they do not tell target and headline, and none of another study is let in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.records import FOLDER as RECORDS
from rrr_lightning.study.settings import Study

NAME = "study.json"
# In a folder that has only this, a study can begin.
HARMLESS = "pilot"


def claim(study: Study, home: Path) -> None:
    """Makes a folder that of a study.

    Raises:
        InputError: It holds another study, or other files.
    """
    check(study, home)
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / NAME, _plain(study))


def check(study: Study, home: Path) -> None:
    """Refuses a folder that is not the study's.

    Raises:
        InputError: It holds another study, records of runs of another or of none, or other files.
    """
    records = sorted(path.stem for path in (home / RECORDS).glob("*.json"))
    if not (home / NAME).exists():
        if records:
            raise InputError(
                f"holds records without the {NAME} that says what was fixed before these runs",
                key="--out",
                found=str(home),
                accepted=f"the {NAME} that lay beside them as well",
            )
        files = [path.name for path in home.iterdir()] if home.is_dir() else []
        if any(not name.startswith(".") and name not in (RECORDS, HARMLESS) for name in files):
            raise InputError(
                "holds other files",
                key="--out",
                found=str(home),
                accepted="a new folder, or one that `rrr study run --out` wrote",
            )
        return
    try:
        before = dict(read_json(home / NAME))
    except (ValueError, TypeError) as error:
        raise InputError(f"{NAME} is damaged", key="--out", found=str(home)) from error
    now = _plain(study)
    for key in now:
        where = _conflict(before.get(key), now[key], key)
        if where is not None:
            raise InputError(
                f"holds another study, whose {where} differs",
                key="--out",
                found=str(home),
                accepted="another folder; arms, durations, seeds and teachers may be added here",
            )
    strange = sorted(set(records) - set(study.run_names()))
    if strange:
        raise InputError(
            "is the record of no run of this study",
            key="--out",
            found=str(home / RECORDS / f"{strange[0]}.json"),
            accepted=f"records of runs such as {next(study.run_names())}",
        )


def _plain(study: Study) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(asdict(study)))
    del content["quality"]["data"]  # a matter of the machine
    return content


def _conflict(before: Any, now: Any, key: str) -> str | None:
    """Returns where two values differ other than by an addition that is allowed."""
    if key in ("arms", "teachers") and isinstance(before, Mapping):
        for name, value in before.items():
            after = now.get(name)
            if not isinstance(after, Mapping):
                return f"{key}.{name}"
            for field in value:
                if (where := _conflict(value[field], after.get(field), field)) is not None:
                    return f"{key}.{name}.{where}"
        return None
    if key in ("durations", "seeds") and before is not None and now is not None:
        return None if set(before) <= set(now) else key
    return None if before == now else key
