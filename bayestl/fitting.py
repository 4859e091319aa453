"""`fit`: from a model and data to a posterior, whatever the size."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from bayestl import checkpoint as checkpoints
from bayestl.columns import SHARED
from bayestl.condense import Source, add, condense, relearn_noise
from bayestl.errors import DataError, expect_whole, notice
from bayestl.inference.infer import FitRecord, Method, infer
from bayestl.kernels import Kernel, MaternOrRBF, Nugget
from bayestl.memory import foresee
from bayestl.models.base import Model
from bayestl.models.problem import Problem
from bayestl.models.single import SingleTask
from bayestl.notices import warn_of_strangers
from bayestl.posterior import Posterior, expect_data
from bayestl.priors import Theta
from bayestl.scaling import Layout, Scaling
from bayestl.selection import PAIRS, SCARCE, choose_pairs, learning_rows, typical
from bayestl.table import TaskData

LEARN = 600  # points that theta is learned from
FEW = 250  # points up to which one thread infers theta
EXACT = 2500  # points that are conditioned on exactly
TELLING = 80  # points above which the smoothness of the functions is asked for
SMALL, PART = 16_384, 65_536  # rows of a table in memory that are condensed in one go: all of it, or parts of it
SITE_WORK = 2e10  # draws times the cube of the points, whose sites must settle under each draw before it predicts
# Rows times draws that the pass may take; and where a task is scarce, its theta uncertain.
WORK, MORE_WORK = 400_000, 1_600_000


def fit(
    model: Model,
    data: TaskData,
    *,
    method: Method = "variational",
    seed: int = 0,
    draws: int | None = None,
    warmup: int = 300,
    pairs: int | None = None,
    device: str = "cpu",
    client: Any = None,
    checkpoint: str | Path | None = None,
    memory: float | None = None,
    progress: bool = True,
) -> Posterior:
    """Infer a model's parameters and return the posterior over functions and parameters.

    The functions are integrated out exactly; theta is inferred by

    * ``"variational"``: L-BFGS to the mode, the curvature there, then a Gaussian in that basis moved to maximise the
      evidence lower bound. Seconds on a few hundred rows, within a few hundredths of a nat of sampling.
    * ``"map"``: the mode alone. Fastest, and over-confident on fewer than about 200 rows.
    * ``"nuts"``: Pyro's sampler on the same density, the reference. Minutes.

    Large tables need no other call. Beyond 600 observations theta is learned from 600 of them (all of a scarce task, and of
    a rich one those near the scarce one's and others at random), then every row is conditioned on: exactly up to 2,500, and
    beyond in one pass that condenses all rows onto inducing pairs (Titsias 2009). A line says so.

    Parameters
    ----------
    model : `SingleTask`, `MultiTask`, `Difference` or `LatentTask`
    data : the observations
    seed : the same seed gives the same answer; no global random state is read or left changed
    draws : of theta, all of which then predict; by default 64 (few rows) to 4 (hundreds) that predict and 256 more, and 1000
        with NUTS
    warmup : steps of NUTS's adaptation
    pairs : number of inducing pairs; by default up to 512, and none where rows are conditioned on exactly; 0 conditions exactly
        however many rows there are, as memory and time allow
    device : where the pass over a large table runs: ``"cpu"``, or ``"cuda"``
    client : a `dask.distributed.Client`, whose workers then make the pass, each over parts of the table
    checkpoint : path under which a large fit, or a chain of NUTS, notes how far it has come. The same call resumes there, to the
        same answer; the notes are removed at the end
    memory : bytes that may be used; by default what the machine has left
    progress : print what was chosen for a large table, and show a bar when it takes more than two seconds on a terminal

    Raises
    ------
    ValueError
        For a method, device, seed or number of draws that cannot be.
    DataError
        When the model cannot describe the data, or the checkpoint is of another fit.
    FitError
        When no usable posterior is found, or memory would not suffice.
    KeyboardInterrupt
        Where Ctrl-C comes too early: before there is a mode of theta, or while a large table is condensed (with a checkpoint the
        same call goes on from there). Later it leaves a posterior, and a warning says on what it stands.

    Examples
    --------
    >>> import pandas as pd, bayestl as btl
    >>> frame = pd.DataFrame({"x": [0.0, 0.3, 0.6, 1.0], "pbe": [1.0, 1.4, 1.8, 2.0], "exp": [None, 1.9, None, 2.6]})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"], units={"pbe": "eV", "exp": "eV"})
    >>> posterior = btl.fit(btl.Difference.chain("pbe", "exp"), data, seed=0)
    >>> posterior.predict({"x": [0.5]}, task="exp")["quantile"].sizes["quantile_level"]
    3
    """
    _check_arguments(model, data, device, {"pairs": pairs, "draws": draws, "warmup": warmup, "seed": seed})
    with torch.inference_mode(False):  # what is made here shall serve outside it too
        model.check(data)
        warn_of_strangers(data)
        seed, began = int(seed), time.perf_counter()
        scaling = model.scaling(data)
        layout = scaling.layout(data)
        functions = np.array([len(layout.contrasts(t)) for t in range(len(data.tasks))])
        size = int((data.counts * functions).sum())
        exact = pairs == 0 or (pairs is None and size <= EXACT and data.parts is None)
        here = int((np.bincount(data.task_index, minlength=len(functions)) * functions).sum())
        most = 0 if exact else min(PAIRS if pairs is None else pairs, here)
        foresee(size, most, draws, min(32, max(4, MORE_WORK // size)), exact, memory)
        options = (method, seed, draws, warmup, pairs, device)
        notes = None if checkpoint is None else checkpoints.Checkpoint(checkpoint, model, data, options)
        if exact and isinstance(model.kernel, MaternOrRBF):
            model = model.with_kernel(_with_nugget(model, data, layout))
        theta, record, components, sites = (notes and notes.read_theta()) or _learn(
            model, data, scaling, functions, here, method, seed, draws, warmup, progress, notes
        )
        if model.kernel.candidates and not np.isnan(record.smoother):
            model = model.with_kernel(model.kernel.candidates[record.took_smoother])
        if exact:
            if draws is None and size > LEARN and Problem.of(model, data, scaling).sites:
                components = min(components, max(4, int(SITE_WORK / size**3)))
            if progress and record.learned_from < len(data):
                moved = ", moved to the mode of all" if record.moved else ""
                print(
                    f"{type(model).__name__}, {len(data):,} observations: parameters learned from {record.learned_from:,} of "
                    f"them{moved}; all conditioned on exactly."
                )
            posterior = Posterior(model, data, scaling, theta, record, components, sites if size <= LEARN else None)
        else:
            if draws is None:
                components = min(components, max(4, (MORE_WORK if data.counts.min() <= SCARCE else WORK) // size))
            total = _in_turn if client is None else partial(_on_cluster, client=client)
            posterior = _condensed(
                model, data, scaling, theta, record, components, most, pairs is not None, device,
                total, notes, client is not None or notes is not None, progress,
            )  # fmt: skip
            record.seconds["total"] = time.perf_counter() - began
        if notes is not None and not record.interrupted:  # what was interrupted goes on from its notes
            notes.remove()
        return posterior


def fit_whole(model: Model, data: TaskData, **options: Any) -> Posterior:
    """As `fit`, for callers that go on with what it gives: the user's interrupt stops them too."""
    posterior = fit(model, data, **options)
    if posterior.record.interrupted:
        raise KeyboardInterrupt
    return posterior


def _check_arguments(model: Model, data: TaskData, device: str, numbers: dict[str, Any]) -> None:
    if not isinstance(model, Model):
        made = f"the class: write btl.{model.__name__}()" if isinstance(model, type) else type(model).__name__
        raise ValueError(f"`model` must be a bayestl model such as btl.MultiTask(); got {made}.")
    expect_data(data, "data")
    for name, value in numbers.items():
        if value is not None:
            expect_whole(name, value, int(name == "draws"))
    gpu = torch.cuda.is_available()
    if device != "cpu" and not (gpu and device.startswith("cuda")):
        seen = "sees one" if gpu else "sees none here"
        raise ValueError(f'`device` must be "cpu", or "cuda" where PyTorch sees a GPU (it {seen}); got {device!r}.')
    if numbers["pairs"] == 0 and data.parts is not None:
        raise DataError(
            "A table larger than memory cannot be conditioned on exactly: leave `pairs` out, or give their number."
        )


# -- theta ------------------------------------------------------------------------------------------------------------


def _learn(
    model: Model, data: TaskData, scaling: Scaling, cost: Any, points: int, method: Method, seed: int, draws: int | None,
    warmup: int, progress: bool, notes: checkpoints.Checkpoint | None,
) -> tuple[Theta, FitRecord, int, Any]:  # fmt: skip
    chosen = np.ones(len(data), dtype=bool)
    if points > LEARN:
        chosen = learning_rows(data, scaling.inputs(data.x), cost, LEARN, seed)
    problem, smoother = Problem.of(model, data.where(chosen), scaling), None
    if model.kernel.candidates and _tells_smoothness(problem):
        smoother = dataclasses.replace(problem, model=model.with_kernel(model.kernel.candidates[1]))
    whole = None
    if LEARN < points <= EXACT and data.parts is None and problem.plain and _alone(problem.layout):
        whole = Problem.of(model, data, scaling)
    with _threads_for(problem):
        theta, record, components, sites = infer(problem, method, seed, draws, warmup, progress, notes, smoother, whole)
    record = dataclasses.replace(record, learned=np.flatnonzero(chosen))
    kept = {name: theta[name] for name in problem.parameters()}
    if notes is not None and not record.interrupted:
        notes.write_theta(kept, record, components, sites)
    return kept, record, components, sites


@contextmanager
def _threads_for(problem: Problem) -> Iterator[None]:
    """One thread for FEW rows or less: more gain nothing, and on a machine that others use they wait for one another."""
    threads = torch.get_num_threads()
    if len(problem.points.output) <= FEW:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _with_nugget(model: Model, data: TaskData, layout: Layout) -> Kernel:
    """Put a nugget beside the default kernel, where rows are many enough to tell what each material has of its own.

    They are so where a material's inputs stand in several rows while others vary, or where the tasks of a joint model are
    observed at the same inputs: these only if inputs have length scales of their own, for the L1 distances of families make a
    kernel that is rough enough as it is.
    """
    if data.repeated:
        return Nugget(model.kernel, data.repeated)
    if not isinstance(model, SingleTask) and _alone(layout) and data.shared_inputs >= SHARED:
        return Nugget(model.kernel)
    return model.kernel


def _tells_smoothness(problem: Problem) -> bool:
    """Whether the observations are many and plain enough to tell how smooth the functions are."""
    return _alone(problem.layout) and len(problem.points.output) > TELLING and problem.plain


def _alone(layout: Layout) -> bool:
    """Whether all inputs have length scales of their own.

    With families of descriptors theta stays where the rows that it is learned from put it, many of them the target's. At
    the mode of all rows the sources decide: over 15 settings of the case studies `LatentTask`, whose tasks share parameters, lost
    0.026 nats and 4 % in RMSE there (20 % on four functionals), `fit_best` 0.007; `Difference` and `MultiTask` gained 0.016 and
    0.010, at three times the price (when each task's rows were still drawn on their own).
    """
    return all(family is None for family in layout.families)


# -- the pass ---------------------------------------------------------------------------------------------------------


def _condensed(
    model: Model, data: TaskData, scaling: Scaling, theta: Theta, record: FitRecord, components: int, most: int,
    all_of_them: bool, device: str, total: Callable[..., tuple[Any, ...]], notes: checkpoints.Checkpoint | None, apart: bool,
    progress: bool,
) -> Posterior:  # fmt: skip
    """Condition on all rows at once, condensed onto inducing pairs; `total` sums over their parts."""
    mixed = {name: value[:components] for name, value in theta.items()}
    lap = time.perf_counter()

    def took(stage: str) -> None:
        nonlocal lap
        lap, record.seconds[stage] = time.perf_counter(), time.perf_counter() - lap

    try:
        sample = Problem.of(model, data, scaling)
        held, untold = choose_pairs(sample, typical(mixed), most, record.seed, all_of_them=all_of_them)
        took("pairs")
        learned = np.bincount(data.task_index[record.learned], minlength=len(data.tasks))
        theta = relearn_noise(model, data, scaling, theta, held, learned, record.seed)
        mixed = {name: value[:components] for name, value in theta.items()}
        took("noise")
        if notes is not None:
            notes.expect_sums(mixed, held)
        if progress:
            print(
                f"{type(model).__name__}, {data.counts.sum():,} observations: parameters learned from {record.learned_from:,} of "
                f"them; all condensed onto {len(held.output):,} inducing pairs, which leave {100 * untold:.2g} % of "
                "the functions' variance untold."
            )
        shown = progress and sys.stderr.isatty()
        with tqdm(desc="fit: all rows", unit=" parts", leave=False, delay=2.0, disable=not shown) as bar:
            inducing = condense(
                _sources(model, data, scaling, sample, apart), model, scaling.layout(data), mixed, held, untold,
                device=device, total=partial(total, bar=bar, notes=notes),
            )  # fmt: skip
        took("all rows")
    except KeyboardInterrupt:
        again = (
            "With checkpoint=PATH the same call would go on from there."
            if notes is None
            else "The same call goes on from here."
        )
        raise KeyboardInterrupt(
            f"The fit was interrupted before all rows were condensed: there is no posterior. {again}"
        ) from None
    if inducing.loose:
        notice(
            f"The {len(held.output)} inducing pairs leave {100 * untold:.2g} % of the variance of the functions untold, "
            f"{inducing.blur:.2g} times that of the noise: predictions at inputs of which nothing was observed are smoother, and "
            f"their intervals wider, than the data allow. Give more, fit(..., pairs={2 * len(held.output)}), or fewer inputs."
        )
    kept = data if data.parts is None else dataclasses.replace(data, parts=None)
    return Posterior(model, kept, scaling, theta, record, components, None, inducing, len(data))


def _sources(model: Model, data: TaskData, scaling: Scaling, whole: Problem, apart: bool) -> Sequence[Source]:
    """All rows in parts; `apart`, as what can be sent to another process."""
    if data.parts is not None:
        return [partial(_read, source, model, scaling) for source in data.parts.sources()]
    if len(data) <= SMALL and not apart:
        return [lambda: whole]
    step = min(PART, max(1, len(data) // 16))
    index = np.arange(len(data))
    return [
        partial(Problem.of, model, data.where((index >= start) & (index < start + step), empty=True), scaling)
        for start in range(0, len(data), step)
    ]


def _read(source: Callable[[], TaskData], model: Model, scaling: Scaling) -> Problem:
    return Problem.of(model, source(), scaling)


def _in_turn(
    function: Callable[[Problem], tuple[Any, ...]],
    sources: Sequence[Source],
    bar: tqdm,
    notes: checkpoints.Checkpoint | None,
) -> tuple[Any, ...]:
    """Sum a function over the sources, one after another; the first such sum is noted as it grows."""
    total, start = None, 0
    if notes is not None and notes.first:
        total, start = notes.read_sums()
    bar.reset(total=len(sources))
    bar.update(start)
    for number in range(start, len(sources)):
        part = function(sources[number]())
        total = part if total is None else add(total, part)
        if notes is not None and notes.first:
            notes.write_sums(total, number + 1)
        bar.update()
    if notes is not None:
        notes.first = False
    assert total is not None
    return total


def _on_cluster(
    function: Callable[[Problem], tuple[Any, ...]],
    sources: Sequence[Source],
    bar: tqdm,
    notes: checkpoints.Checkpoint | None,
    client: Any,
) -> tuple[Any, ...]:
    """Sum a function over the sources on the workers of a cluster, without notes.

    Parts are pure functions of what they are sent, so one that is lost with its worker is simply made again; they are added
    in an order of their own, so the answer does not depend on who was first.
    """
    # What all parts share (theta, factors: megabytes) is sent to every worker once, so that it outlives any of them.
    shared = client.scatter(function, broadcast=True)
    first = parts = [client.submit(_apply, shared, source, pure=False) for source in sources]
    bar.reset(total=len(parts))
    for part in parts:
        part.add_done_callback(lambda _: bar.update())
    while len(parts) > 1:
        paired = [client.submit(add, a, b, pure=False) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = paired + parts[len(paired) * 2 :]
    try:
        return client.gather(parts[0])  # type: ignore[no-any-return]
    except BaseException:
        client.cancel(first)
        raise


def _apply(function: Callable[[Problem], tuple[Any, ...]], source: Source) -> tuple[Any, ...]:
    return function(source())
