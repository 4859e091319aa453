"""Leave-one-out and leave-group-out predictions without refitting."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from bayestl.cavity import LeftOut, laws, left_out
from bayestl.columns import labels_of
from bayestl.errors import DataError, listed, notice
from bayestl.fitting import fit_whole
from bayestl.likelihoods.predictive import Predictive, mixed
from bayestl.materials import Sight
from bayestl.models.problem import Problem
from bayestl.posterior import Posterior, expect_posterior
from bayestl.psis import smoothed
from bayestl.regression import Regression
from bayestl.scoring import Scores

Groups = str | Sequence[Any] | pd.Series | None  # what is left out together: see `leave_out`
UNRELIABLE = 0.7  # k-hat of weights
ENOUGH = 32  # draws of theta from which importance weights can be smoothed
FEW = 400  # rows, of fewer of which single ones have a say in theta
# Operations that the factorisations may take: up to 256 draws where they are cheap, and just enough where they are dear.
CHEAP, WORK = 4e9, 4e10
NEARLY = 0.1  # of the evidence bound, to which their sites settle: log densities of left-out rows are off by 0.0003 on average
SETTLING = 8  # factorisations of each draw where sites must settle


def leave_out(
    posterior: Posterior, by: Groups = None, *, task: str | None = None, paired: bool = False, refit: bool = False
) -> xr.Dataset:
    """Judge every observation by what all other rows say of it, without refitting.

    The functions are conditioned on the other rows exactly (on a condensed table as exactly as its inducing pairs allow, on
    rows at the same inputs exactly), under every draw of theta; the draws are weighted by ``1 / p(y_i | y_-i, theta)``,
    Pareto-smoothed, which takes the row's own say in theta back (Vehtari, Gelman & Gabry 2017, doi 10.1007/s11222-016-9696-4).
    Draws of a variational posterior are weighted by ``p(theta | y) / q(theta)`` as well (Magnusson et al. 2019,
    arXiv:1904.10679): far out where q has draws and the posterior has none, rows are fitted worst, and would decide.

    Parameters
    ----------
    by : leave out whole groups: the name of an input, ``"row"`` (all tasks of a row of the caller's table), ``"inputs"`` (all
        observations at the same inputs), ``"materials"`` (where rows agree in some inputs while others vary, as those of a
        formula at several temperatures: ``data.repeated`` names them), a label for each observation, or a Series with a label
        for each row of the caller's table, by its index (``by=table["metal"]``). Rows added by `condition` count to the row of
        the same label
    task : judge only the observations of this task
    paired : leave out only this task's observations of a group: what other tasks say of it stays known, as where predictions
        are wanted for materials that the sources know (with ``by=None`` it does anyway)
    refit : fit again without each group whose weights are unreliable (``pareto_k`` above 0.7), with the posterior's method and
        seed: as many fits as there are such groups. With a dozen rows beside many sources that may decide which model is best.
        A group that holds all rows of a task is judged as before, and named

    Returns
    -------
    xarray.Dataset
        As `Posterior.score`, with ``pareto_k`` beside it (above 0.7: the row has so much say in theta that its weights are
        unreliable; NaN where too few draws of theta were used to tell; 0 after a refit) and the coordinate ``group``.

    Raises
    ------
    DataError
        For labels of groups that do not fit the observations, and to `refit` a table that is not in memory.
    ValueError
        Where `paired` is asked for without a `task`.

    Examples
    --------
    >>> import pandas as pd, bayestl as btl
    >>> frame = pd.DataFrame({"x": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], "pbe": [1.0, 1.2, 1.4, 1.6, 1.8, 2.0], "exp": 3 * [None, 1.9]})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"])
    >>> posterior = btl.fit(btl.MultiTask(), data, seed=0)
    >>> scored = btl.leave_out(posterior, by="row", task="exp")
    >>> scored.sizes["row"]
    3
    """
    return left_out_scores(posterior, by, task, paired, refit=refit)


def left_out_scores(
    posterior: Posterior,
    by: Groups = None,
    task: str | None = None,
    paired: bool = False,
    *,
    refit: bool = False,
    crps: bool = True,
    regression: Regression | None = None,
) -> xr.Dataset:
    """As `leave_out`, from given draws of theta with their functions; the ranked probability score only where it is asked for."""
    expect_posterior(posterior)
    data = posterior.data
    codes, labels = _groups(posterior, by)
    wanted = np.ones(len(data), dtype=bool) if task is None else data.task_index == data.index_of(task)
    if paired:
        if task is None:
            raise ValueError(
                "`paired` needs `task`: the one whose observations are left out while those of others stay."
            )
        codes = np.where(wanted, codes, codes.max() + 1 + np.arange(len(data)))
        codes = pd.factorize(codes)[0].astype(np.int64)
    _warn_of_lone_groups(posterior, codes, wanted)
    out, k = Scores(data), np.full(len(data), np.nan)
    materials = posterior._materials
    unsure = wanted if materials is None else wanted & ~materials.accompanied(codes)
    if unsure.any() and posterior.inducing is not None and posterior.inducing.loose:
        notice(
            f"The inducing pairs leave {100 * posterior.inducing.untold:.2g} % of the functions' variance untold, "
            f"{posterior.inducing.blur:.2g} times that of the noise. Rows left out with all that was observed at their "
            "inputs are then predicted worse than new ones are: the pairs are among them. Hold rows out, and judge with "
            "posterior.score(test)."
        )
    given, regression = regression, regression or functions(posterior)
    if given is None and regression.draws < ENOUGH and np.arange(len(data))[posterior.record.learned].size < FEW:
        notice(
            f"The posterior has {'the mode' if regression.draws == 1 else f'{regression.draws} draws'} of theta alone: what a "
            "row told of theta is not taken back where it is left out, which flatters the scores of small tables. Do not compare "
            "them with those of other fits; btl.fit(..., method='variational') with its default draws takes it back."
        )
    weights = _weights_of_learned(posterior, regression, codes, wanted)
    for sight in posterior.sights(codes, wanted, regression):
        k[sight.chosen] = _judge(posterior, sight, codes, out, crps, weights)[sight.chosen]
    if refit:
        _fit_without(posterior, codes, np.unique(codes[wanted & (k > UNRELIABLE)]), wanted, out, k, crps)
    scored = out.labelled()
    scored["pareto_k"] = ("row", k)
    return scored.assign_coords(group=("row", labels)).isel(row=np.flatnonzero(wanted))


def _fit_without(
    posterior: Posterior, codes: NDArray[np.int64], groups: NDArray[np.int64], wanted: NDArray[np.bool_], out: Scores,
    k: NDArray[np.float64], crps: bool,
) -> None:  # fmt: skip
    """Judge the observations of some groups by fits without each; where a task has no others, its judgement stays."""
    data, record = posterior.data, posterior.record
    if posterior.inducing is not None and posterior.inducing.rows > len(data):
        raise DataError(
            "refit=True needs all rows, and the table is larger than memory. Hold rows out: posterior.score(test)."
        )
    shown, kept = sys.stderr.isatty(), list[int]()
    for group in tqdm(groups, desc="leave out: fits", leave=False, delay=2.0, disable=not shown):
        own = codes == group
        if len(np.unique(data.task_index[~own])) < len(data.tasks):
            kept += data.rows[own & wanted].tolist()
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of single fits, whose like was said of the whole
            rest = fit_whole(
                posterior.model, data.where(~own), method=record.method, seed=record.seed, progress=False
            )  # fmt: skip
        for t in np.unique(data.task_index[own & wanted]):
            rows = np.flatnonzero(own & wanted & (data.task_index == t))
            out.put(rows, *rest.measured_law(data, int(t), rows), crps=crps)
            k[rows] = 0.0
    if kept:
        notice(f"Rows {listed(kept)} are not left out by a fit: without them a task has no rows. Their weights decide.")


Weights = tuple[torch.Tensor, torch.Tensor]  # of the draws for each group (S, groups), and k-hat (groups)


def _judge(
    posterior: Posterior, sight: Sight, codes: NDArray[np.int64], out: Scores, crps: bool, weights: Weights | None
) -> NDArray[np.float64]:
    """Put the scores of groups that have chosen rows where these belong; gives k-hat for every row."""
    problem, (wanted, regression, in_sums, settled) = posterior._problem, sight
    whole = _left_out(regression, problem, codes, np.isin(codes, codes[wanted]), in_sums, settled)
    predicted: Iterable[list[Predictive]] = (list(laws(problem, regression.theta, part)) for part in whole)
    if weights is None:
        predicted = list(predicted)
        weights = _weights(posterior, regression, problem, codes, whole, predicted)
    weight, k = weights
    for part, each in zip(whole, predicted, strict=True):
        if wanted[part.rows.numpy()].any():  # rows of other tasks only weigh theta
            y = problem.rows(part.task, part.rows).y
            out.put(part.rows.numpy(), mixed(each, weight[:, part.groups]), y, crps=crps)
    return k.numpy()[codes]  # type: ignore[no-any-return]


def _warn_of_lone_groups(posterior: Posterior, codes: NDArray[np.int64], wanted: NDArray[np.bool_]) -> None:
    """Say where values are left out from which alone the model knows where they lie."""
    data, layout, location = posterior.data, posterior._problem.layout, posterior.scaling.location
    for t, task in enumerate(data.tasks):
        own = data.task_index == t
        mine, others = location[layout.contrasts(t)], np.delete(location, layout.contrasts(t))
        alike = bool(np.isin(mine, others).all())
        if task.levels is None and not alike and (wanted & own).any() and len(np.unique(codes[own])) == 1:
            notice(
                f"All observations of task {task.name!r} are left out together. Where its values lie is known from them "
                "alone, so they are predicted too well."
            )


def functions(posterior: Posterior, most: int = 256, work: float = WORK, dear: float = math.inf) -> Regression:
    """The functions under as many draws of theta as are cheap, `most` at the most.

    At least `ENOUGH`, so that importance weights can be smoothed, where that costs less than `work` operations; else the draws
    that predictions are made from, and so where these are as many. Where the data have not been solved under these yet, and
    that would cost more than `dear`, fewer of them, but two.
    """
    held = posterior._regression
    if posterior.inducing is not None:
        return held
    each = max(len(posterior._problem.points.output), 1) ** 3
    cheap = CHEAP / SETTLING if posterior._problem.sites else CHEAP
    enough = ENOUGH if ENOUGH * each <= work else 0
    draws = min(posterior.draws, most, max(int(cheap / each), enough))
    if draws < ENOUGH or draws <= posterior.components:
        draws = posterior.components
        if held.solved or dear == math.inf:
            return held
        draws = min(draws, max(2, int(dear / (SETTLING * each))))
    chosen = np.arange(draws)  # of a quasi-random sequence; of a chain, draws far apart
    if posterior.record.method == "nuts":
        chosen = np.linspace(0, posterior.draws - 1, draws).round().astype(np.int64)
    theta = {name: value[torch.from_numpy(chosen)] for name, value in posterior.theta.items()}
    return Regression(posterior._problem, theta, posterior.sites, tolerance=NEARLY)


def _left_out(regression: Regression, problem: Problem, *which: Any) -> list[LeftOut]:
    """As `cavity.left_out`, for all draws at a time."""
    batches: dict[int, list[LeftOut]] = {}
    for part in left_out(regression, problem, *which):
        batches.setdefault(part.draws.start, []).append(part)
    return [_all_draws(parts) for parts in zip(*batches.values(), strict=True)]


def _all_draws(parts: Sequence[LeftOut]) -> LeftOut:
    joint = None if parts[0].log_joint is None else torch.cat([p.log_joint for p in parts if p.log_joint is not None])
    return parts[0]._replace(
        draws=slice(0, parts[-1].draws.stop), mean=torch.cat([p.mean for p in parts]), cov=torch.cat([p.cov for p in parts]),
        log_joint=joint,
    )  # fmt: skip


def _weights_of_learned(
    posterior: Posterior, regression: Regression, codes: NDArray[np.int64], wanted: NDArray[np.bool_]
) -> Weights | None:
    """Weights where they do not follow from what is left out: of few draws, and where theta was learned from some rows only.

    Only rows that theta was learned from had a say in it, so it is from these alone that a group is left out to weigh it.
    """
    count = int(codes.max()) + 1
    if regression.draws < ENOUGH:  # theta is known well, or is a mode: equal weights
        equal = torch.full((regression.draws, count), 1 / regression.draws, dtype=torch.float64)
        return equal, torch.full((count,), torch.nan, dtype=torch.float64)
    learned = np.zeros(len(posterior.data), dtype=bool)
    learned[posterior.record.learned] = True
    if learned.all():
        return None
    concerned = np.isin(codes, codes[wanted])[learned]
    problem = Problem.of(posterior.model, posterior.data.where(learned, empty=True), posterior.scaling)
    regression = Regression(problem, regression.theta, tolerance=NEARLY)
    parts = _left_out(regression, problem, codes[learned], concerned)
    predicted = [() if part.log_joint is not None else list(laws(problem, regression.theta, part)) for part in parts]
    return _weights(posterior, regression, problem, codes, parts, predicted)


def _weights(
    posterior: Posterior, regression: Regression, problem: Problem, codes: NDArray[np.int64], parts: Sequence[LeftOut],
    predicted: Sequence[Sequence[Predictive]],
) -> Weights:  # fmt: skip
    """Weights of the draws of theta for each group, and k-hat: ``p(theta | y) / (q(theta) p(y_G | y_-G, theta))``, smoothed.

    The joint density of a group counts where all of its rows are normal, else the product of their densities.
    """
    record = posterior.record
    total = torch.zeros(regression.draws, int(codes.max()) + 1, dtype=torch.float64)
    for part, each in zip(parts, predicted, strict=True):
        if part.log_joint is not None:
            total[:, part.groups] = part.log_joint
        else:
            y = problem.rows(part.task, part.rows).y
            total[:, part.groups] += torch.stack([law.log_density(y) for law in each])
    if len(record.log_q) and not record.moved and posterior.inducing is None and parts:
        ratio = regression.log_evidence + torch.from_numpy((record.log_prior - record.log_q)[: regression.draws])
        had_a_say = torch.unique(torch.cat([part.groups for part in parts]))
        total[:, had_a_say] -= ratio.unsqueeze(-1)
    log_weight, k = smoothed(-total)
    return log_weight.exp(), k


def _groups(posterior: Posterior, by: Groups) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Number and label of the group of each observation."""
    data = posterior.data
    if by is None:
        return np.arange(len(data)), np.arange(len(data))
    if isinstance(by, str):
        if by == "row":
            keys = labels_of(data.rows).to_numpy()
        elif by == "inputs":
            keys = data.places
        elif by == "materials" and not data.made_of(by):
            if not data.repeated:
                raise DataError(
                    "No inputs tell materials that stay the same in several rows while others vary (levels of a factor do not), "
                    "so by='materials' has no meaning here. Use 'inputs', an input, or labels of your own: by=table[...]."
                )
            keys = data.materials
        elif own := data.made_of(by):
            keys = data.marks(data.x[:, own], own)
            if len(own) == 1:
                keys = data.decode(data.x)[data.inputs[own[0]].name].to_numpy()
        else:
            raise DataError(
                f"`by` must be 'row', 'inputs', 'materials' or an input ({listed(data.columns, 20)}); got {by!r}. Give any other "
                f"column of your table itself: by=table[{by!r}]."
            )
    elif isinstance(by, pd.Series):
        if not by.index.is_unique:
            raise DataError("The index of `by` repeats labels of rows. Give each row of the table one.")
        rows, by = labels_of(data.rows), by.set_axis(labels_of(by.index))
        if rows.dtype.kind != by.index.dtype.kind:  # data from a file hold labels such as dates as text
            rows, by = labels_of(map(str, data.rows)), by.set_axis(labels_of(map(str, by.index)))
        if len(by) == len(data) and set(by.index) != set(rows):
            raise DataError(
                f"`by` has as many labels as there are observations ({len(data)}), and another index than the rows of the table. "
                "Give an array for a label of each observation, or a Series indexed by the rows that the data hold."
            )
        if missing := list(dict.fromkeys(row for row in rows if row not in by.index)):
            raise DataError(
                f"`by` has no label for rows {listed(missing)}. Index it as the table that the data were made from."
            )
        keys = by.loc[rows].to_numpy()
    else:
        keys = np.asarray(by)
        if keys.shape != (len(data),):
            raise DataError(f"`by` must hold a label for each of the {len(data)} observations; got shape {keys.shape}.")
    codes, _ = pd.factorize(keys)
    if (codes < 0).any():
        raise DataError(
            f"`by` has no label for observations {listed(np.flatnonzero(codes < 0).tolist())}. Give each one."
        )
    return codes.astype(np.int64), keys
