"""What can go wrong, by whose hand it can be mended."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """The table, the task names or the file are not what they must be; the message says where and what to do."""


class FitError(RuntimeError):
    """The inference could not produce a usable posterior; the message says why and what to change."""


def listed(items: Sequence[object], most: int = 5) -> str:
    """Render the first few of `items`, and how many more there are."""
    shown = ", ".join(repr(item) if isinstance(item, str) else str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")
