"""Files that are published elsewhere: fetched once and cached, or taken from a folder of copies; always checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from bayestl.errors import DataError

BASE = "https://raw.githubusercontent.com"


class Source(NamedTuple):
    """Where a file is published, below `BASE`, and what its bytes must hash to."""

    sha256: str
    address: str


def _read_registry() -> dict[tuple[str, str], Source]:
    lines = (resources.files("bayestl.datasets") / "registry.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split() for line in lines if not line.startswith("#")]
    return {(name, file): Source(sha256, address) for name, file, sha256, address in entries}


REGISTRY = _read_registry()


def fetch(name: str, file: str) -> Path:
    """Path of one file of the set `name`, whose bytes are those that were published.

    The file is taken from the folder that ``BAYESTL_DATA`` names, as ``<name>/<file>``. Where that variable is not set the
    file is fetched on first use, at one commit of a public repository, and kept in the user's cache.

    Raises
    ------
    DataError
        When the file is not there, cannot be fetched, or holds other bytes; of a failed fetch nothing is kept. When pooch,
        which fetches and caches, is not installed: ``pip install 'bayestl[data]'``.
    """
    source = REGISTRY.get((name, file))
    if source is None:
        raise DataError(f"No file {file!r} of a set {name!r} is known to bayestl.datasets.")
    folder = os.environ.get("BAYESTL_DATA")
    return _copy(Path(folder) / name / file, source) if folder else _download(name, file, source)


def _copy(path: Path, source: Source) -> Path:
    origin = f"{BASE}/{source.address}"
    if not path.is_file():
        raise DataError(
            f"BAYESTL_DATA is set, but there is no {path}. Download {origin} to there, or unset the variable to have "
            "files fetched and cached."
        )
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != source.sha256:
        raise DataError(
            f"{path} does not hold the bytes that were published: its sha256 is {found}, expected is {source.sha256}. "
            f"Replace it by {origin}."
        )
    return path


def _download(name: str, file: str, source: Source) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise DataError(
            f"Fetching {file} of {name} needs pooch: pip install 'bayestl[data]'. Or name a folder that holds "
            f"{name}/{file} in the environment variable BAYESTL_DATA."
        ) from error
    origin = f"{BASE}/{source.address}"
    try:
        # pooch writes to a temporary file and moves it only when the checksum agrees.
        path = pooch.retrieve(
            origin,
            known_hash=f"sha256:{source.sha256}",
            fname=file,
            path=Path(pooch.os_cache("bayestl")) / name,
            # The files are small. Streaming, pooch would leave the connection open after an error.
            downloader=pooch.HTTPDownloader(stream=False),
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is a ValueError
        problem = "came with other bytes than were published" if isinstance(error, ValueError) else "was not fetched"
        raise DataError(
            f"{file} of {name} {problem}; nothing was kept. Expected: sha256 {source.sha256} from {origin}. "
            f"What happened: {str(error).rstrip('.')}. Try again later, or download the file by any other means to "
            f"<folder>/{name}/{file} and name that folder in the environment variable BAYESTL_DATA."
        ) from None
    return Path(path)


def read_table(
    name: str, file: str, columns: Mapping[str, str] | None = None, missing: Sequence[str] = (), **options: Any
) -> pd.DataFrame:
    """Read a file of delimited text; of its columns only those that `columns` renames, in that order.

    Missing are empty cells and those that `missing` lists, nothing else: pandas' own list holds "NaN", a formula.
    """
    path = fetch(name, file)
    # utf-8-sig reads UTF-8 with and without a byte-order mark, which would else stick to the first column's name.
    table = pd.read_csv(path, keep_default_na=False, na_values=["", *missing], encoding="utf-8-sig", **options)
    return table if columns is None else table[list(columns)].rename(columns=dict(columns))
