"""Tables larger than memory: parquet folders, Dask DataFrames and chunked xarray Datasets, one part at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayestl.errors import DataError

Loader = Callable[[], pd.DataFrame]


@dataclass(frozen=True)
class ParquetPart:
    """Some row groups of a parquet file."""

    path: str
    groups: tuple[int, ...]

    def __call__(self) -> pd.DataFrame:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path).read_row_groups(list(self.groups)).to_pandas()


@dataclass(frozen=True)
class DaskPart:
    """A partition of a Dask DataFrame."""

    part: Any

    def __call__(self) -> pd.DataFrame:
        if isinstance(self.part, pd.DataFrame):  # Dask computes what it finds inside the arguments of its tasks
            return self.part
        return self.part.compute(scheduler="synchronous")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class XarrayPart:
    """A chunk of an xarray Dataset."""

    part: xr.Dataset

    def __call__(self) -> pd.DataFrame:
        return self.part.compute(scheduler="synchronous").to_dataframe().reset_index()


def loaders_of(table: Any) -> list[Loader] | None:
    """Give the parts of a table that is not in memory; None for one that is."""
    if isinstance(table, str | Path):
        if (kind := Path(table).suffix.lower()) in (".csv", ".tsv", ".txt", ".xls", ".xlsx"):
            reader = "read_excel" if kind.startswith(".xl") else "read_csv"
            raise DataError(
                f"Only parquet files are read here; read this one first: pandas.{reader}({str(table)!r}), and give the table."
            )
        return list[Loader](_parquet(Path(table)))
    if isinstance(table, xr.Dataset):
        if not table.chunks:
            return None
        if len(table.chunks) > 1:
            raise DataError(
                f"A chunked Dataset must have one dimension, its rows; got {', '.join(map(str, table.chunks))}."
            )
        ((dim, sizes),) = table.chunks.items()
        ends = np.cumsum(sizes)
        return [
            XarrayPart(table.isel({dim: slice(int(end - size), int(end))}))
            for end, size in zip(ends, sizes, strict=True)
        ]
    dask = sys.modules.get("dask.dataframe")
    if dask is not None and isinstance(table, dask.DataFrame):
        return [DaskPart(part) for part in table.to_delayed()]
    return None


def mark_of(loader: Loader) -> str:
    """What tells a part from another, as far as can be known without reading it."""
    if isinstance(loader, ParquetPart):
        state = Path(loader.path).stat()
        return f"{loader.path} {loader.groups} {state.st_size} {state.st_mtime_ns}"
    if isinstance(loader, DaskPart):
        return str(loader.part.key)
    return type(loader).__name__


def length_of(loader: Loader) -> int:
    """Rows of a part, without reading its values where that can be known."""
    if isinstance(loader, XarrayPart):
        return int(next(iter(loader.part.sizes.values())))
    if isinstance(loader, ParquetPart):
        import pyarrow.parquet as pq

        metadata = pq.ParquetFile(loader.path).metadata
        return sum(metadata.row_group(group).num_rows for group in loader.groups)
    return len(loader())


def _parquet(path: Path, rows: int = 131_072) -> Iterable[ParquetPart]:
    """Cut parquet files into parts of about `rows` rows, along their row groups."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError("Reading parquet needs pyarrow: pip install 'bayestl[large]'.") from error
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{str(path)!r} is not a parquet file, nor a folder that holds any (*.parquet).")
    for file in files:
        try:
            metadata = pq.ParquetFile(file).metadata
        except Exception as error:  # whatever pyarrow raises on bytes that are not its own
            raise DataError(
                f"{str(file)!r} cannot be read as parquet: it is damaged, or another kind of file."
            ) from error
        groups, size = list[int](), 0
        for group in range(metadata.num_row_groups):
            groups.append(group)
            size += metadata.row_group(group).num_rows
            if size >= rows or group == metadata.num_row_groups - 1:
                yield ParquetPart(str(file), tuple(groups))
                groups, size = [], 0


class Want(NamedTuple):
    """Rows of one kind, and how many of them a sample should keep."""

    kind: Any
    mask: NDArray[np.bool_]
    keep: int


def reservoir(
    loaders: Sequence[Loader], wants: Callable[[pd.DataFrame], Iterable[Want]], seed: int = 0
) -> tuple[pd.DataFrame, dict[Any, int]]:
    """Draw a uniform sample of the rows of each kind, in one pass over all parts; and count the rows of each kind.

    A row that several kinds want is there once. Rows keep their order.
    """
    rng = np.random.default_rng(seed)
    kept: dict[Any, pd.DataFrame] = {}
    counts: dict[Any, int] = {}
    for number, load in enumerate(loaders):
        frame = load()
        keys = pd.DataFrame(
            {_KEY: rng.random(len(frame)), _PART: number, _ROW: np.arange(len(frame))}, index=frame.index
        )
        keyed = pd.concat([frame, keys], axis=1)
        for kind, mask, keep in wants(frame):
            counts[kind] = counts.get(kind, 0) + int(mask.sum())
            own = keyed.loc[mask]
            known = pd.concat([kept[kind], own]) if kind in kept else own
            kept[kind] = known.nsmallest(keep, _KEY) if len(known) > keep else known
    if not any(counts.values()):
        raise DataError("The table has no rows. Expected at least one observation.")
    whole = pd.concat(kept.values()).drop_duplicates([_PART, _ROW]).sort_values([_PART, _ROW])
    return whole.drop(columns=[_KEY, _PART, _ROW]), counts


_KEY, _PART, _ROW = "bayestl key", "bayestl part", "bayestl row"
