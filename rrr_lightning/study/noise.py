"""Noise that is not the same everywhere: how the variance over seeds runs with the cost.

A straight line through the logarithms of variances, against that of the cost. Few seeds say little
of a variance, and so of the line: intervals get wider where it is above its mean, never narrower
where it is below.

Shapes: K cells, R replicates (one for a study).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.special import digamma, polygamma

from rrr_lightning.study.frontier import Array

LEAST_CELLS = 3
ROUNDING = 1e-20  # a variance below is that of rounding


@dataclass(frozen=True)
class Trend:
    """variance of a run at log cost x = pooled variance · exp(slope · x - level), by replicate.

    Attributes:
        slope: Shape [R]; negative where longer runs vary less.
        level: Shape [R].
    """

    slope: Array
    level: Array

    def relative(self, log_costs: Array) -> Array:
        """Returns variances over the pooled one, shape [..., R]."""
        return cast(Array, np.exp(np.asarray(log_costs)[..., None] * self.slope - self.level))

    def widened(self, log_costs: Array) -> Array:
        """Returns the same where it is above 1: intervals get wider by it, never narrower."""
        return np.maximum(1.0, self.relative(log_costs))


LEVEL = Trend(np.zeros(1), np.zeros(1))


def trend_of(log_costs: Array, variances: Array, freedoms: Array) -> Trend:
    """Returns the trend of the variances of cells.

    Args:
        log_costs: Shape [K].
        variances: Of the log errors of each cell, shape [K, R].
        freedoms: Their degrees of freedom, shape [K].
    """
    known = (freedoms > 0) & (variances > ROUNDING).all(axis=1)
    places, freedoms = log_costs[known], freedoms[known]
    weights = 1 / polygamma(1, freedoms / 2)  # of the logarithm of a variance
    if known.sum() < LEAST_CELLS or np.ptp(places) == 0:
        return Trend(*np.zeros((2, variances.shape[1])))
    bias = digamma(freedoms / 2) - np.log(freedoms / 2)
    logs = np.log(variances[known]) - bias[:, None]
    apart = places - np.average(places, weights=weights)
    slope = (weights * apart) @ logs / float(np.sum(weights * apart**2))
    mean = np.average(np.exp(places[:, None] * slope), axis=0, weights=freedoms)
    return Trend(slope, np.log(mean))
