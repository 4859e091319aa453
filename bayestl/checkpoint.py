"""Notes of how far a large fit has come, from which the same call resumes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayestl import archive, storage
from bayestl.errors import DataError
from bayestl.gaussian.inducing import Sums
from bayestl.gaussian.sites import Site
from bayestl.inference.infer import FitRecord
from bayestl.models.base import Model
from bayestl.priors import Theta
from bayestl.scaling import Pairs
from bayestl.stream import mark_of
from bayestl.table import TaskData


class Checkpoint:
    """Files beside one another: the draws of a chain so far, what was learned of theta, and the sums over the parts of the table.

    Each is replaced as a whole, so that being killed at any moment loses at most the part at work.
    """

    def __init__(self, path: str | Path, model: Model, data: TaskData, options: tuple[Any, ...]) -> None:
        self.path = Path(path)
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise DataError(f"`checkpoint` must be the path of a file in a folder that exists; got {str(path)!r}.")
        self.sums = self.path.with_name(self.path.name + ".sums")
        self.chain = self.path.with_name(self.path.name + ".chain")
        self.mark = _fingerprint(model, data, options)
        self.first = True
        self.summed = ""

    def write_chain(self, chain: dict[str, np.ndarray]) -> None:
        """Note the draws of a NUTS chain so far."""
        storage.write(self.chain, chain, {"mark": self.mark, "kind": "chain"})

    def read_chain(self) -> dict[str, np.ndarray] | None:
        """The draws that were noted, if any were."""
        return self._read(self.chain, "chain")[0] if self.chain.is_file() else None

    def write_theta(self, theta: Theta, record: FitRecord, components: int, sites: Sequence[Site] | None) -> None:
        """Note the draws of theta, how they came about, and the sites that are a start for those of each draw."""
        arrays = {f"theta__{i}": value.numpy() for i, value in enumerate(theta.values())}
        arrays |= {f"record__{name}": getattr(record, name) for name in FitRecord.ARRAYS}
        arrays |= {f"sites__{name}": array for name, array in archive.sites_written(sites).items()}
        plain = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in FitRecord.ARRAYS}
        storage.write(
            self.path,
            arrays,
            {
                "mark": self.mark,
                "kind": "theta",
                "theta": list(theta),
                "record": plain,
                "components": components,
                "sites": None if sites is None else len(sites),
            },
        )

    def read_theta(self) -> tuple[Theta, FitRecord, int, list[Site] | None] | None:
        """What was noted of theta, if anything was."""
        if not self.path.is_file():
            return None
        arrays, settings = self._read(self.path, "theta")
        theta = {name: torch.from_numpy(arrays[f"theta__{i}"].copy()) for i, name in enumerate(settings["theta"])}
        own: dict[str, Any] = {name: arrays[f"record__{name}"] for name in FitRecord.ARRAYS}
        written = {name.removeprefix("sites__"): array for name, array in arrays.items() if name.startswith("sites__")}
        sites = archive.sites_read(written, settings["sites"])
        return theta, FitRecord(**settings["record"], **own), settings["components"], sites

    def expect_sums(self, theta: Theta, pairs: Pairs) -> None:
        """Tell under which draws of theta, and at which pairs, the sums are: a fit that is interrupted leaves others."""
        self.summed = _digest(list(theta), [own.numpy() for own in (*theta.values(), pairs.x, pairs.output)])

    def write_sums(self, total: tuple[Any, ...], parts: int) -> None:
        """Note the sums over the first `parts` parts."""
        sums, *counts = total
        arrays = {name: value.numpy() for name, value in sums._asdict().items()}
        noted = {"mark": self.mark, "kind": "sums", "of": self.summed, "counts": counts, "parts": parts}
        storage.write(self.sums, arrays, noted)

    def read_sums(self) -> tuple[tuple[Any, ...] | None, int]:
        """The sums, and over how many parts they are."""
        if not self.sums.is_file():
            return None, 0
        arrays, settings = self._read(self.sums, "sums")
        if settings.get("of") != self.summed:
            return None, 0
        sums = Sums(*(torch.from_numpy(arrays[name].copy()) for name in Sums._fields))
        return (sums, *settings["counts"]), settings["parts"]

    def remove(self) -> None:
        """Forget everything: the fit is done."""
        self.path.unlink(missing_ok=True)
        self.sums.unlink(missing_ok=True)
        self.chain.unlink(missing_ok=True)

    def _read(self, path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            arrays, settings = storage.read(path)
        except DataError as error:
            raise DataError(
                f"The notes in {str(path)!r} are damaged. Delete the file; what it held is done again."
            ) from error
        if settings.get("mark") != self.mark or settings.get("kind") != kind:
            raise DataError(
                f"{str(path)!r} holds the notes of another fit (another model, other data or options). Delete it, or "
                "give another checkpoint path."
            )
        return arrays, settings


def _fingerprint(model: Model, data: TaskData, options: tuple[Any, ...]) -> str:
    described = None if data.descriptors is None else data.descriptors.to_csv()
    parts = [] if data.parts is None else [mark_of(loader) for loader in data.parts.loaders]
    whole = (archive.describe(model), options, data.inputs, data.tasks, data.counts.tolist(), described, parts)
    return _digest(whole, [data.x, data.task_index, data.values, data.errors, data.details])


def _digest(said: Any, arrays: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256(repr(said).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
