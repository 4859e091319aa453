"""One netCDF file of named arrays and plain settings, without pickle, that cannot be damaged unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayestl.errors import DataError

FORMAT = 4


def write(path: str | Path, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Path:
    """Write numeric arrays and JSON-able settings; the file appears whole or not at all."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to save {path.name!r} in.")
    text = json.dumps(settings, sort_keys=True, allow_nan=True)
    dataset = xr.Dataset(
        {name: ([f"{name}_{i}" for i in range(array.ndim)], array) for name, array in arrays.items()},
        attrs={"bayestl_format": FORMAT, "settings": text, "sha256": _digest(arrays, text)},
    )
    partial = path.with_name(path.name + ".partial")
    try:
        dataset.to_netcdf(partial, engine="h5netcdf")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read such a file back; `DataError` for a damaged, foreign or newer one."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {str(path)!r}.")
    try:
        with xr.open_dataset(path, engine="h5netcdf", decode_cf=False) as dataset:
            attributes = dict(dataset.attrs)
            arrays = {str(name): np.array(variable.values) for name, variable in dataset.data_vars.items()}
            digest = _digest(arrays, str(attributes.get("settings")))  # text may be no text any more
    except Exception as error:  # whatever the HDF5 layers raise on bytes that are not theirs
        raise DataError(
            f"{str(path)!r} cannot be read: it is damaged (cut short, perhaps) or not a netCDF file. Copy or save it again."
        ) from error
    if "bayestl_format" not in attributes:
        raise DataError(f"{str(path)!r} is a netCDF file, but not one that bayestl saved.")
    if int(attributes["bayestl_format"]) > FORMAT:
        raise DataError(
            f"{str(path)!r} was saved by a newer bayestl (format {int(attributes['bayestl_format'])}; this one reads up to "
            f"{FORMAT}). Upgrade bayestl."
        )
    if int(attributes["bayestl_format"]) < FORMAT:
        raise DataError(f"{str(path)!r} was saved by a bayestl from before its first release. Fit and save again.")
    if attributes.get("sha256") != digest:
        raise DataError(f"{str(path)!r} is damaged: its checksum does not match its content. Copy or save it again.")
    return arrays, json.loads(str(attributes["settings"]))


def _digest(arrays: Mapping[str, NDArray[Any]], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
