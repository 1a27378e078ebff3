"""Fixtures that several tests of an evaluation share."""

from __future__ import annotations

from tests.glue.tiny import body as body
from tests.glue.tiny import data as data
