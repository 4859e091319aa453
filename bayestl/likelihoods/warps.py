"""Scales on which a positive, skewed value looks normal."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayestl.errors import RowsError


@dataclass(frozen=True)
class Warp(ABC):
    """An increasing map ``z = w(y)`` from the user's values to the scale on which the model works.

    Medians and quantiles come back exactly, as ``w^-1`` of those on the model's scale; means and standard deviations by
    quadrature.
    """

    @abstractmethod
    def forward(self, y: Tensor, offset: Tensor | float) -> Tensor:
        """``w(y)``."""

    @abstractmethod
    def inverse(self, z: Tensor, offset: Tensor | float) -> Tensor:
        """``w^-1(z)``; where z is below the range of w, the lower end of its domain."""

    @abstractmethod
    def log_slope(self, y: Tensor, offset: Tensor | float) -> Tensor:
        """``log w'(y)``."""

    def check(self, values: NDArray[np.float64], task: str) -> None:  # noqa: B027
        """Refuse values outside the domain."""

    def resolve(self, values: NDArray[np.float64], task: str) -> Warp:
        """Check the values, and settle what is learned from them."""
        self.check(values, task)
        return self

    @property
    def fixed_offset(self) -> float | None:
        """The offset, None where it is inferred."""
        return 0.0

    @property
    def offset_scale(self) -> float:
        """Median of the prior of an inferred offset."""
        return 1.0

    @property
    def positive(self) -> bool:
        """Whether no value below zero has a probability."""
        return self.fixed_offset == 0.0


@dataclass(frozen=True)
class _Offset(Warp):
    offset: float | None
    typical: float = 1.0

    @property
    def fixed_offset(self) -> float | None:
        return self.offset

    @property
    def offset_scale(self) -> float:
        return self.typical

    def check(self, values: NDArray[np.float64], task: str) -> None:
        low = float(values.min(initial=np.inf))
        if self.offset is None and low < 0:
            raise RowsError(
                f"{type(self).__name__} with an inferred offset needs values of zero or more; task {task!r} holds "
                f"{low:g}. Give an offset above {-low:g}.", values < 0,
            )  # fmt: skip
        if self.offset is not None and low + self.offset <= 0:
            raise RowsError(
                f"{type(self).__name__}(offset={self.offset:g}) cannot take the values of task {task!r}, the smallest of which "
                f"is {low:g}: its slope is infinite there. Use a larger offset, offset=None to infer one, or Hurdle() for zeros.",
                values + self.offset <= 0,
            )

    def resolve(self, values: NDArray[np.float64], task: str) -> Warp:
        self.check(values, task)
        if self.offset is not None:
            return self
        spread = float(values.std())
        return dataclasses.replace(self, typical=0.3 * spread if spread > 0 else max(abs(float(values.min())), 1.0))


@dataclass(frozen=True)
class Log(_Offset):
    """``w(y) = log(y + offset)``; ``offset=None`` infers it, with prior ``LogNormal(log(0.3 sd of the values), 1)``."""

    offset: float | None = 0.0

    def forward(self, y: Tensor, offset: Tensor | float) -> Tensor:
        return torch.log(y + offset)

    def inverse(self, z: Tensor, offset: Tensor | float) -> Tensor:
        return torch.exp(z.clamp_max(700.0)) - offset

    def log_slope(self, y: Tensor, offset: Tensor | float) -> Tensor:
        return -torch.log(y + offset)


@dataclass(frozen=True)
class Sqrt(_Offset):
    """``w(y) = sqrt(y + offset)``; ``offset=None`` infers it, with prior ``LogNormal(log(0.3 sd of the values), 1)``.

    What the model believes to lie below zero on this scale is predicted at ``-offset``: take an offset from which the values keep
    away.
    """

    offset: float | None = 0.0

    @property
    def positive(self) -> bool:
        """Not so: what lies below zero on this scale is no positive value."""
        return False

    def forward(self, y: Tensor, offset: Tensor | float) -> Tensor:
        return torch.sqrt(y + offset)

    def inverse(self, z: Tensor, offset: Tensor | float) -> Tensor:
        return z.clamp_min(0.0).square() - offset

    def log_slope(self, y: Tensor, offset: Tensor | float) -> Tensor:
        return -0.5 * torch.log((y + offset).clamp_min(1e-300)) - np.log(2.0)


@dataclass(frozen=True)
class Softplus(Warp):
    """``y = scale log(1 + e^z)``: positive, linear for large values. By default `scale` is half the median value."""

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"`scale` must be positive; got {self.scale}.")

    def check(self, values: NDArray[np.float64], task: str) -> None:
        if (low := float(values.min(initial=np.inf))) <= 0:
            raise RowsError(
                f"Softplus needs positive values; task {task!r} holds {low:g}. Use Hurdle() for zeros, or Sqrt(offset=...).",
                values <= 0,
            )

    def resolve(self, values: NDArray[np.float64], task: str) -> Warp:
        self.check(values, task)
        return self if self.scale is not None else Softplus(0.5 * float(np.median(values)))

    def forward(self, y: Tensor, offset: Tensor | float) -> Tensor:
        u = y / self._scale
        return u + torch.log(-torch.expm1(-u))

    def inverse(self, z: Tensor, offset: Tensor | float) -> Tensor:
        return self._scale * torch.nn.functional.softplus(z, threshold=50.0)

    def log_slope(self, y: Tensor, offset: Tensor | float) -> Tensor:
        u = y / self._scale
        return -torch.log(-torch.expm1(-u)) - np.log(self._scale)

    @property
    def _scale(self) -> float:
        return 1.0 if self.scale is None else self.scale


def warped(warp: Warp | None, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values on the model's scale, at the typical offset: what standardisation is learned from."""
    if warp is None:
        return values
    out: NDArray[Any] = warp.forward(torch.from_numpy(np.array(values)), typical_offset(warp)).numpy()
    return out


def typical_offset(warp: Warp) -> float:
    """The offset, or the median of its prior."""
    return warp.offset_scale if warp.fixed_offset is None else warp.fixed_offset
