"""What can go wrong, by whose hand it can be mended."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DataError(ValueError):
    """The table, the task names or the file are not what they must be; the message says where and what to do."""


class RowsError(DataError):
    """The same of some of the rows that were read, marked by `mask`; whoever knows their labels says which."""

    def __init__(self, message: str, mask: NDArray[np.bool_]) -> None:
        super().__init__(message)
        self.mask = mask


class FitError(RuntimeError):
    """The inference could not produce a usable posterior; the message says why and what to change."""


OURS = (str(Path(__file__).parent), "<@beartype")  # files whose lines are not the user's


def notice(message: str) -> None:
    """Warn of something that can go on as it is, at the line of the user's that led to it."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OURS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def listed(items: Sequence[object], most: int = 5) -> str:
    """Render the first few of `items`, and how many more there are."""
    shown = ", ".join(repr(item) if isinstance(item, str) else str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def expect_whole(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        bound = {0: "zero or more", 1: "at least 1"}.get(least, f"at least {least}")
        raise ValueError(f"`{name}` must be a whole number, {bound}; got {value!r}.")


@contextmanager
def naming_rows(labels: Sequence[Any]) -> Iterator[None]:
    """Say of a `RowsError` which rows it is about: those of these labels."""
    try:
        yield
    except RowsError as error:
        if len(error.mask) != len(labels):
            raise
        rows = [label for label, odd in zip(labels, error.mask, strict=True) if odd]
        raise DataError(f"{error} Rows: {listed(rows)}.") from None
