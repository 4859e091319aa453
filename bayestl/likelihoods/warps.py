"""Scales on which a skewed value looks normal."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions import TorchDistribution
from torch import Tensor

from bayestl import priors
from bayestl.errors import RowsError

EDGE = 1e-6  # least power of a branch, a logarithm to ten digits
SHAPE = 4000  # values, of which so many quantiles tell the shape


@dataclass(frozen=True)
class Warp(ABC):
    """An increasing map ``z = w(y)`` from the user's values to the scale on which the model works.

    Medians and quantiles come back exactly, as ``w^-1`` of those on the model's scale; means and standard deviations by
    quadrature.
    """

    parameter: ClassVar[str] = "offset"  # its name among the task's parameters, where it is inferred

    @abstractmethod
    def forward(self, y: Tensor, at: Tensor | float) -> Tensor:
        """``w(y)``, `at` being the value of the parameter."""

    @abstractmethod
    def inverse(self, z: Tensor, at: Tensor | float) -> Tensor:
        """``w^-1(z)``; where z is below the range of w, the lower end of its domain."""

    @abstractmethod
    def log_slope(self, y: Tensor, at: Tensor | float) -> Tensor:
        """``log w'(y)``."""

    def check(self, values: NDArray[np.float64], task: str) -> None:  # noqa: B027
        """Refuse values outside the domain."""

    def resolve(self, values: NDArray[np.float64], task: str) -> Warp:
        """Check the values, and settle what is learned from them."""
        self.check(values, task)
        return self

    @property
    def fixed(self) -> float | None:
        """The parameter, None where it is inferred."""
        return 0.0

    @property
    def usual(self) -> float:
        """The parameter, or what it probably is: values are standardised on its scale."""
        return self.fixed or 0.0

    def prior(self) -> TorchDistribution | None:
        """Of the parameter, where it is inferred, else None."""
        return None

    @property
    def positive(self) -> bool:
        """Whether no value below zero has a probability."""
        return self.fixed == 0.0

    @abstractmethod
    def growth(self, at: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        """The powers of z with which values grow far below and far above; 0 where they are bounded."""


@dataclass(frozen=True)
class _Offset(Warp):
    offset: float | None
    typical: float = 1.0

    @property
    def fixed(self) -> float | None:
        return self.offset

    @property
    def usual(self) -> float:
        return self.typical if self.offset is None else self.offset

    def prior(self) -> TorchDistribution | None:
        return priors.log_normal(math.log(self.typical), 1.0) if self.offset is None else None

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

    def forward(self, y: Tensor, at: Tensor | float) -> Tensor:
        return torch.log(y + at)

    def inverse(self, z: Tensor, at: Tensor | float) -> Tensor:
        return torch.exp(z.clamp_max(700.0)) - at

    def growth(self, at: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        return 0.0, np.inf

    def log_slope(self, y: Tensor, at: Tensor | float) -> Tensor:
        return -torch.log(y + at)


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

    def forward(self, y: Tensor, at: Tensor | float) -> Tensor:
        return torch.sqrt(y + at)

    def inverse(self, z: Tensor, at: Tensor | float) -> Tensor:
        return z.clamp_min(0.0).square() - at

    def growth(self, at: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        return 0.0, 2.0

    def log_slope(self, y: Tensor, at: Tensor | float) -> Tensor:
        return -0.5 * torch.log((y + at).clamp_min(1e-300)) - np.log(2.0)


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

    def forward(self, y: Tensor, at: Tensor | float) -> Tensor:
        u = y / self._scale
        return u + torch.log(-torch.expm1(-u))

    def inverse(self, z: Tensor, at: Tensor | float) -> Tensor:
        return self._scale * torch.nn.functional.softplus(z, threshold=50.0)

    def growth(self, at: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        return 0.0, 1.0

    def log_slope(self, y: Tensor, at: Tensor | float) -> Tensor:
        u = y / self._scale
        return -torch.log(-torch.expm1(-u)) - np.log(self._scale)

    @property
    def _scale(self) -> float:
        return 1.0 if self.scale is None else self.scale


@dataclass(frozen=True)
class YeoJohnson(Warp):
    """A scale that the data choose: any values, bent the more the further the inferred power is from one.

    With ``u = (y - centre) / scale``, ``g(u) = ((1 + u)^power - 1) / power`` above the centre and
    ``-((1 - u)^(2 - power) - 1) / (2 - power)`` below it (Yeo & Johnson 2000, doi 10.1093/biomet/87.4.954), moved and stretched
    so that the values at ``u = -1`` and ``u = 1`` stay where they are: the power bends the scale and does nothing else. One is
    the plain scale; towards zero high values are drawn in, as by a logarithm, towards two low ones. A power for each task also
    straightens a link between tasks that is curved and rises or falls throughout, as one that saturates.

    Parameters
    ----------
    power : between 0 and 2; by default inferred, ``logit(power / 2) ~ N(0, 1)``: from 0.24 to 1.76 within two deviations
    centre, scale : in the values' units; by default their median, and half the distance from the 16 % to the 84 % quantile
    typical : the power on whose scale values are standardised where it is inferred; by default the likeliest of them alone

    Examples
    --------
    >>> import numpy as np, pandas as pd, bayestl as btl
    >>> x = np.linspace(0, 1, 30)
    >>> frame = pd.DataFrame({"x": x, "y": np.exp(3 * np.sin(5 * x))})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Gaussian(btl.YeoJohnson())})
    >>> posterior = btl.fit(btl.SingleTask(), data, seed=0)
    >>> bool(posterior.theta["y.power"].mean() < 0.8)
    True
    """

    power: float | None = None
    centre: float | None = None
    scale: float | None = None
    typical: float = 1.0

    parameter = "power"

    def __post_init__(self) -> None:
        if self.power is not None and not 0 <= self.power <= 2:
            raise ValueError(
                f"`power` must lie between 0 (both ends of the scale drawn in above) and 2; got {self.power}."
            )
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"`scale` must be positive; got {self.scale}.")

    @property
    def fixed(self) -> float | None:
        return self.power

    @property
    def usual(self) -> float:
        return self.typical if self.power is None else self.power

    @property
    def positive(self) -> bool:
        """Not so: it takes any number."""
        return False

    def prior(self) -> TorchDistribution | None:
        return priors.powers() if self.power is None else None

    def resolve(self, values: NDArray[np.float64], task: str) -> YeoJohnson:
        if not len(values):
            return self
        low, middle, high = np.quantile(values, [0.16, 0.5, 0.84]).tolist()
        wide = next((s for s in (0.5 * (high - low), float(values.std()), abs(middle)) if s > 0), 1.0)
        centre, scale = self._place(middle, wide)
        found = dataclasses.replace(self, centre=centre, scale=scale)
        return found if self.power is not None else dataclasses.replace(found, typical=found.likely(values)[0])

    def forward(self, y: Tensor, at: Tensor | float) -> Tensor:
        centre, scale = self._place()
        above, below = _branches(at)
        middle, reach = _ends(above, below)
        u = (y - centre) / scale
        bent = torch.where(u >= 0, _power(u, above), -_power(-u, below))
        return centre + scale * (bent - middle) / reach

    def inverse(self, z: Tensor, at: Tensor | float) -> Tensor:
        centre, scale = self._place()
        above, below = _branches(at)
        middle, reach = _ends(above, below)
        bent = middle + reach * (z - centre) / scale
        return centre + scale * torch.where(bent >= 0, _root(bent, above), -_root(-bent, below))

    def growth(self, at: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
        above, below = _branches(at)
        return 1 / below, 1 / above

    def log_slope(self, y: Tensor, at: Tensor | float) -> Tensor:
        centre, scale = self._place()
        above, below = _branches(at)
        u = (y - centre) / scale
        return (above - 1) * u.sign() * u.abs().log1p() - _ends(above, below)[1].log()

    def _place(self, centre: float = 0.0, scale: float = 1.0) -> tuple[float, float]:
        return centre if self.centre is None else self.centre, scale if self.scale is None else self.scale

    def likely(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """The power under which the values look most like a normal sample (likelihood times prior, by a grid).

        And how much higher that is, in nats, than at a power of one.
        """
        thin = -(-len(values) // SHAPE)
        y = torch.from_numpy(np.sort(values)[thin // 2 :: thin])
        v = torch.linspace(-3.0, 3.0, 61, dtype=torch.float64)[:, None]
        power = 2 * torch.sigmoid(v)
        variance = self.forward(y, power).var(-1, correction=0).clamp_min(1e-300)
        height = len(values) * (self.log_slope(y, power).mean(-1) - 0.5 * variance.log()) - 0.5 * v[:, 0].square()
        best = int(height.argmax())
        return float(power[best]), float(height[best] - height[30])


def _branches(power: Tensor | float) -> tuple[Tensor, Tensor]:
    """The powers above and below the centre."""
    above = torch.as_tensor(power, dtype=torch.float64).clamp(EDGE, 2 - EDGE)
    return above, 2 - above


def _ends(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half the distance of what -1 and 1 are bent to."""
    one = torch.ones((), dtype=torch.float64)
    high, low = _power(one, above), -_power(one, below)
    return 0.5 * (high + low), 0.5 * (high - low)


def _power(u: Tensor, power: Tensor) -> Tensor:
    """``((1 + u)^power - 1) / power`` for u of zero or more."""
    return torch.expm1(power * torch.log1p(u.clamp_min(0.0))) / power


def _root(z: Tensor, power: Tensor) -> Tensor:
    """The inverse of `_power`."""
    return torch.expm1((torch.log1p(power * z.clamp_min(0.0)) / power).clamp_max(700.0))


def warped(warp: Warp | None, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values on the model's scale, at the usual parameter: what standardisation is learned from."""
    if warp is None:
        return values
    out: NDArray[Any] = warp.forward(torch.from_numpy(np.array(values)), warp.usual).numpy()
    return out
