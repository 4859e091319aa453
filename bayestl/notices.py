"""What is said of a table that can be read, and is hardly meant as it stands."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bayestl.errors import listed
from bayestl.likelihoods.warps import Warp, typical_offset

BENT = 1.3  # times that an error is larger one error away
FEW_LEVELS = 4  # that could be labels by chance
_MEASURE = re.compile(r"\s*[-+]?\d[\d.,]*(?:[eE][-+]?\d+)?\s*([^\d\s.,].*?)\s*")


def warn_of_twins(labels: Sequence[Any], what: str) -> None:
    """Say which labels differ only in case or spaces: they are taken as different, and may not be."""
    found: dict[str, list[str]] = {}
    for label in labels:
        if isinstance(label, str):
            found.setdefault(" ".join(label.split()).casefold(), []).append(label)
    if twins := [" and ".join(map(repr, group)) for group in found.values() if len(group) > 1]:
        warnings.warn(
            f"{what} differ only in case or spaces, and are taken as different: {'; '.join(twins[:5])}. Write them alike if "
            "they are one.",
            stacklevel=6,
        )


def warn_of_units(labels: Sequence[Any], what: str, advice: str) -> None:
    """Say where labels are numbers with a unit behind: they are taken as labels, and hardly meant so."""
    found = [match.group(1) for label in labels if isinstance(label, str) and (match := _MEASURE.fullmatch(label))]
    if len(labels) > FEW_LEVELS and len(found) == len(labels) and len(set(found)) == 1:
        warnings.warn(
            f"{what} holds numbers with {found[0]!r} behind them, {listed(labels, 3)}, and they are taken as labels. Take it "
            f"away, convert the column with pandas.to_numeric, and say the unit with units={{...}}; {advice}",
            stacklevel=6,
        )


def warn_of_zeros(values: NDArray[np.float64], task: str) -> None:
    """Say where so many values are exactly zero that zero is hardly a value among others."""
    zeros = int((values == 0).sum())
    if zeros >= max(5, 0.2 * len(values)) and (values >= 0).all() and (values != np.floor(values)).any():
        warnings.warn(
            f"Task {task!r}: {zeros} of {len(values)} values are exactly 0, and none is below. If zero is a limit, or a state "
            f"of its own as the gap of a metal, say so with likelihoods={{{task!r}: btl.Hurdle()}} or btl.Censored(lower=0.0); "
            "if it is a value as others are, btl.Gaussian().",
            stacklevel=6,
        )


def warn_of_errors(values: NDArray[np.float64], errors: NDArray[np.float64], warp: Warp, task: str) -> None:
    """Say where known errors on a warped scale, where they are taken to first order, depend much on the value itself."""
    offset, y = typical_offset(warp), torch.from_numpy(values)
    z, noise = warp.forward(y, offset).numpy(), (warp.log_slope(y, offset).exp() * torch.from_numpy(errors)).numpy()
    fine = np.isfinite(z) & np.isfinite(noise) & (noise > 0)
    z, noise = z[fine], noise[fine]
    if len(z) < 5 or not np.ptp(z) > 0:
        return
    trend = np.polyfit(z - z.mean(), np.log(noise), 1)[0]  # none where errors are relative and the scale is logarithmic
    bent = int((np.abs(trend) * noise > math.log(BENT)).sum())
    if bent > 0.1 * len(values):
        warnings.warn(
            f"Task {task!r}: on the scale of {type(warp).__name__}, the known errors of {bent} of {len(values)} rows depend much "
            "on the very value that was measured, where they are taken to first order: small values count too little, and "
            "scores do not compare with those on another scale. Observe the task without a warp, or leave the errors out.",
            stacklevel=5,
        )
