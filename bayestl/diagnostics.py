"""Can this posterior be believed? What to look at, what it means, what to do."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from pyro.ops.stats import effective_sample_size, gelman_rubin
from scipy.stats import rankdata

from bayestl.archive import parameters, prior_draws
from bayestl.columns import SHARED, without_slash
from bayestl.crossvalidation import WORK, functions, left_out_scores
from bayestl.errors import listed
from bayestl.inference.variational import rise
from bayestl.likelihoods import Gaussian, Hurdle, Poisson, StudentT, YeoJohnson
from bayestl.posterior import Posterior, expect_posterior
from bayestl.psis import reliable
from bayestl.regression import Regression
from bayestl.scoring import scores
from bayestl.table import TaskData

Level = Literal["good", "note", "warning"]
TELLING = 128  # draws of theta that left-out rows are judged by: enough to see what is wrong
EFFORT = 5e8  # operations, where sites must settle, that weights of the draws may cost: no more than the fit
DEAR = 8e10  # and that their functions may cost where they are not known yet
SKEWED, CLEARLY = (
    20,
    5.0,
)  # rows that tell the shape of a task's values, and nats by which another scale must suit them better
MARK = {"good": "ok  ", "note": "note", "warning": "WARN"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: the figure, how it stands, what it means and what to do about it."""

    name: str
    level: Level
    value: float
    meaning: str
    advice: str = ""

    def __str__(self) -> str:
        text = f"{MARK[self.level]}  {self.name} = {self.value:.3g}: {self.meaning}"
        return f"{text} {self.advice}" if self.advice else text


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found, the worst first."""

    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        """The worst of all."""
        return self.findings[0].level if self.findings else "good"

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))

    __repr__ = __str__

    def __getitem__(self, name: str) -> Finding:
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(f"There is no finding {name!r}; there are {listed([f.name for f in self.findings], 20)}.")

    def _repr_html_(self) -> str:
        colour = {"good": "#2a7", "note": "#b80", "warning": "#c33"}
        rows = "".join(
            f'<tr><td style="color:{colour[f.level]}">{f.level}</td><td>{html.escape(f.name)}</td><td>{f.value:.3g}</td>'
            f'<td style="text-align:left">{html.escape(f.meaning)} <i>{html.escape(f.advice)}</i></td></tr>'
            for f in self.findings
        )
        return f"<table>{rows}</table>"

    def to_xarray(self) -> xr.Dataset:
        """The same as labelled arrays, dim (finding)."""
        columns = ("value", "level", "meaning", "advice")
        return xr.Dataset(
            {name: ("finding", np.array([getattr(f, name) for f in self.findings])) for name in columns},
            coords={"finding": [f.name for f in self.findings]},
        )


def diagnose(posterior: Posterior, *, seed: int = 0) -> Diagnosis:
    """Look at everything that tells whether a posterior can be believed.

    How the fit of theta ended (the trace of its evidence bound, k-hat, agreement of independent starts; of a chain R-hat,
    effective draws and divergences), parameters at the edge of their priors, tasks that are mostly noise, values so skewed that
    another scale is worth a try, materials too few for their many conditions, jitter, sites that did not settle, inducing pairs
    that leave too much untold, and, by leaving rows out, coverage, outliers and rows with outsized influence. Each finding says
    what it means and what to do.

    Examples
    --------
    >>> import pandas as pd, bayestl as btl
    >>> frame = pd.DataFrame({"x": [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], "gap": [1.0, 1.3, 1.4, 1.7, 1.8, 2.0]})
    >>> data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap"])
    >>> diagnosis = btl.diagnose(btl.fit(btl.SingleTask(), data, seed=0))
    >>> diagnosis["k-hat"].level in ("good", "note", "warning")
    True
    """
    expect_posterior(posterior)
    order = {"warning": 0, "note": 1, "good": 2}
    regression = functions(posterior, TELLING, EFFORT if posterior._problem.sites else WORK, DEAR)
    found = [*_of_theta(posterior), *_of_edges(posterior, seed), *_of_noise(posterior)]
    found += [*_of_scales(posterior), *_of_materials(posterior.data)]
    found += [*_of_engine(posterior, regression), *_of_rows(posterior, regression)]
    return Diagnosis(tuple(sorted(found, key=lambda finding: order[finding.level])))


def _of_theta(posterior: Posterior) -> Iterator[Finding]:
    record = posterior.record
    if record.interrupted:
        yield Finding("interrupted", "warning", 1.0, "The fit was stopped before its end.", "Fit again.")
    if record.method == "map":
        yield Finding(
            "method", "note", 1.0, "theta is a single point: with few rows intervals are too narrow.",
            'Fit with method="variational".',
        )  # fmt: skip
    drift, steep = rise(record.elbo)
    if not np.isnan(drift):
        yield Finding(
            "ELBO drift", "warning" if steep else "good", drift,
            "The evidence bound was still rising when the fit ended." if steep else "The evidence bound had levelled off.",
            'Compare with method="nuts".' if steep else "",
        )  # fmt: skip
    if not np.isnan(record.pareto_k):
        k = record.pareto_k
        level: Level = "good" if k <= reliable(len(record.log_ratios)) else "note" if k <= 1.0 else "warning"
        meaning = {
            "good": "The Gaussian posterior of theta is close to the true one: reweighting its draws would be reliable",
            "note": "The Gaussian posterior of theta misses some of the true one's tails; predictions are usually sound",
            "warning": "The Gaussian posterior of theta fits badly",
        }[level]
        limit = reliable(len(record.log_ratios))
        meaning += f" (the limit for {len(record.log_ratios)} draws is {limit:.2f})." if len(record.log_ratios) else "."
        advice = "" if level == "good" else 'Compare predictions with those of method="nuts" where they matter.'
        if level == "note" and posterior.inducing is None and not record.moved:
            advice += " posterior.reweighted() corrects what importance weights can."
        yield Finding("k-hat", level, k, meaning, advice)
    if len(record.modes) > 1:
        high = np.sort(record.modes)[::-1]
        agree = int((high > high[0] - 0.5).sum())
        yield Finding(
            "starts that agree", "good" if agree > 1 else "note", agree,
            f"{agree} of {len(high)} starts reached the best mode; the next best is {high[0] - high[1]:.1f} nats below.",
            "" if agree > 1 else "Fit with other seeds, and see whether predictions change.",
        )  # fmt: skip
    if record.divergences:
        yield Finding(
            "divergences", "warning", record.divergences, "Transitions of the sampler went wrong.",
            "Give it more warm-up steps.",
        )  # fmt: skip
    if record.method == "nuts" and len(record.log_prior) == posterior.draws >= 8:
        yield from _of_chain(posterior)


def _of_chain(posterior: Posterior) -> Iterator[Finding]:
    """Whether a chain mixed: rank-normalised split R-hat and effective sample size, of the bulk (Vehtari et al. 2021)."""
    labelled = parameters(posterior, posterior.theta)
    columns = {
        _named(name, i, labelled): own
        for name, value in posterior.theta.items()
        for i, own in enumerate(value.reshape(len(value), -1).T)
        if own.min() < own.max()  # a loading may be zero by construction
    }
    advice = "Give it more warm-up steps, and more draws."
    if not columns:
        yield Finding("effective draws", "warning", 1.0, "The chain never moved: all draws are the same.", advice)
        return
    draws = torch.stack(list(columns.values()), -1)
    draws = draws[: len(draws) // 2 * 2]
    ranks = torch.from_numpy(rankdata(draws.numpy(), axis=0))
    halves = torch.special.ndtri((ranks - 0.375) / (len(draws) + 0.25)).double().unflatten(0, (2, -1))
    spread, count = gelman_rubin(halves), len(draws)
    # Of few draws the autocorrelation time comes out negative; the bound is ArviZ's.
    effective = count / (count / effective_sample_size(halves)).clamp_min(1 / math.log10(count))
    names, worst, least = list(columns), int(spread.argmax()), int(effective.argmin())
    apart, few = float(spread[worst]), float(effective[least])
    # Of one chain, and the largest of many: 1.01 is not telling until there are a thousand effective draws.
    level: Level = "good" if apart <= 1.03 else "note" if apart <= 1.1 else "warning"
    yield Finding(
        "R-hat", level, apart, f"Both halves of the chain tell the same of every parameter (most apart: {names[worst]})."
        if level == "good" else f"The halves of the chain differ, most of all in {names[worst]}.",
        "" if level == "good" else advice,
    )  # fmt: skip
    level = "good" if few >= 100 else "note" if few >= 50 else "warning"
    yield Finding(
        "effective draws", level, few,
        f"independent draws that tell as much as the {len(draws)} of {names[least]}, the fewest of all.",
        "" if level == "good" else advice,
    )  # fmt: skip


def _of_edges(posterior: Posterior, seed: int) -> Iterator[Finding]:
    """Parameters whose posterior lies where the prior hardly does."""
    prior = prior_draws(posterior._problem, 1000, seed)
    stuck, labelled = 0, parameters(posterior, posterior.theta)
    for name, value in posterior.theta.items():
        own, before = value.reshape(len(value), -1), prior[name].reshape(1000, -1)
        if own.shape[1] != before.shape[1]:  # a task was added since
            continue
        free = before.std(0) > 0  # a loading may be zero by construction
        rank = (before.unsqueeze(0) < own.median(0).values.unsqueeze(0)).double().mean(1)[0]
        for i in (free & ((rank <= 0.002) | (rank >= 0.998))).nonzero().squeeze(-1).tolist():
            stuck += 1
            label = _named(name, i, labelled)
            side = "above" if rank[i] > 0.5 else "below"
            yield Finding(
                f"edge: {label}", "note", float(own[:, i].median()),
                f"The data pull it {side} 99.8 % of its prior.",
                _edge_advice(name, side),
            )  # fmt: skip
    if not stuck:
        yield Finding("parameters at an edge", "good", 0, "All parameters lie well within their priors.")


def _named(name: str, i: int, labelled: xr.Dataset) -> str:
    """What the i-th entry of a parameter is called: by its task, its input, ..."""
    parameter = labelled[without_slash(name)]
    dims = parameter.dims[2:]
    place = np.unravel_index(i, [parameter.sizes[dim] for dim in dims])
    entry = ", ".join(str(parameter[dim].values[k]) for dim, k in zip(dims, place, strict=True))
    return f"{name}[{entry}]" if parameter[0, 0].size > 1 else name


def _edge_advice(name: str, side: str) -> str:
    if name.endswith("length_scale"):
        if side == "above":
            return "Either the input does not matter, or the function is a straight line along it (and its amplitude large)."
        return "The function varies faster than the rows can show: look for mistakes in the input, or a jump."
    if name.endswith("family_scale"):
        if side == "above":
            return (
                "Taken together these inputs do not matter: the function is told by others, or by single ones of them."
            )
        return "Rows that are nearly alike in these inputs have other values: look for an input that is missing, or mistakes."
    if name.endswith(".power"):
        if side == "below":
            return "No bend is enough: where its values are positive and span decades, observe the task on btl.Log()."
        return "Its low values reach too far for a bend: look for outliers, or observe its distance from a bound on btl.Log()."
    if name == "noise":
        if side == "below":
            return "The values look exact: are they computed, or rows repeated?"
        return "The inputs do not tell this task: look for inputs that do."
    if name == "amplitude" and side == "above":
        return (
            "The function goes far beyond its values, as a straight line does; or look for outliers and mistaken units."
        )
    return "Look at the values of the task for outliers and mistaken units."


def _of_noise(posterior: Posterior) -> Iterator[Finding]:
    """Share of each task's spread that is noise."""
    if "noise" not in posterior.theta:
        return
    problem = posterior._problem
    first = {name: value[:1] for name, value in posterior.theta.items()}
    for t in problem.layout.noisy:
        values = [
            p.law.standardised(p.rows, problem.parameters_of(first, t))[0]
            for p in problem.pieces
            if p.task == t and p.law.noisy
        ]
        spread = float(torch.cat([v.reshape(-1) for v in values]).var(correction=0)) if values else 1.0
        future = problem.future_noise_variance(posterior.theta, t)
        noise = float(future.median())
        share = min(1.0, noise / spread) if spread > 0 else 1.0
        name = posterior.data.names[t]
        if share > 0.8:
            shared = len(posterior.data.tasks) > 1
            yield Finding(
                f"noise of {name}", "warning", share, "Nearly all of its variance is noise: the inputs tell next to nothing"
                + (", and its correlation with other tasks, which is of what is left, no more." if shared else "."),
                "Look for inputs that do, or for values of mixed origin.",
            )  # fmt: skip
        elif share > 0.4:
            yield Finding(f"noise of {name}", "note", share, "About half of its variance, or more, is noise.")
        else:
            yield Finding(f"noise of {name}", "good", share, "share of its variance that is noise.")


def _of_scales(posterior: Posterior) -> Iterator[Finding]:
    """Numbers so skewed that another scale is worth a try."""
    data = posterior.data
    for t, task in enumerate(data.tasks):
        values = data.values[data.task_index == t]
        plain = isinstance(task.likelihood, Gaussian | StudentT) and task.likelihood.warp is None
        if plain and len(values) >= SKEWED and np.ptp(values) > 0:
            warp = YeoJohnson().resolve(values, task.name)
            power, gain = warp.likely(values)
            if gain > CLEARLY + 0.05 * len(values):
                name = type(task.likelihood).__name__
                yield Finding(
                    f"scale of {task.name}", "note", power,
                    f"the power of a scale on which its values would look more normal, by {gain:.0f} nats (1: as they are).",
                    f"Compare a fit with likelihoods={{{task.name!r}: btl.{name}(btl.YeoJohnson())}}.",
                )  # fmt: skip


def _of_materials(data: TaskData) -> Iterator[Finding]:
    """Whether materials under many conditions each are too few to tell what each has of its own."""
    if not data.repeated and (told := data.repeating(2)):
        yield Finding(
            "materials", "note", len(np.unique(data.alike_in(told))),
            f"told apart by {listed(told, 4)}, make up all rows: too few to learn from by how much a new one differs from what "
            "its inputs tell. Intervals for new ones may be far too narrow.",
            "Predict other conditions of these; for new ones measure more materials rather than more conditions.",
        )  # fmt: skip


def _of_engine(posterior: Posterior, regression: Regression) -> Iterator[Finding]:
    if not posterior.record.sites_converged:
        yield Finding(
            "sites", "warning", 0.0, "The sites of observations that are not normal did not settle at the mode.",
            "Look for classes that the inputs separate perfectly, or for outliers among counts.",
        )  # fmt: skip
    held = posterior.inducing
    if held is not None:
        unjudged = " Coverage and outliers are not judged: rows are left out too badly for that." if held.loose else ""
        yield Finding(
            "untold", "warning" if held.loose else "good", held.untold,
            f"share of the functions' variance that {len(held.pairs.output)} inducing pairs leave untold, {held.blur:.2g} times "
            f"that of the noise.{unjudged}",
            "Give more: fit(..., pairs=...). Judge with rows that were held out: posterior.score(test)." if held.loose else "",
        )  # fmt: skip
    jitter = regression.jitter
    yield Finding(
        "jitter", "note" if jitter > 1e-10 else "good", jitter, "added to the diagonal of covariances, relative to its mean.",
        "Rows repeat with tiny errors: merge them." if jitter > 1e-10 else "",
    )  # fmt: skip


def _of_classes(name: str, line: pd.Series, scored: xr.Dataset) -> Finding:
    """Whether the probabilities of classes tell more than how often each occurs."""
    codes = scored["class_measured"].values[scored["task"].values == name].astype(int)
    share = np.bincount(codes) / len(codes)
    bare = -float((share[share > 0] * np.log(share[share > 0])).sum())
    worse = line["nlpd"] - bare > 2 * np.nan_to_num(line["nlpd_se"])
    return Finding(
        f"log loss of {name}", "warning" if worse else "good", float(line["nlpd"]),
        f"of the left-out labels of {name}; to say of each how often it occurs has {bare:.2f}.",
        "The probabilities are worse than the bare frequencies: look at btl.plots.plot_reliability, and for labels that are "
        "wrong (lapse=None)." if worse else "",
    )  # fmt: skip


def _of_rows(posterior: Posterior, regression: Regression) -> Iterator[Finding]:
    """What leaving rows out tells: where tasks share materials, with all that is known of each, as of a new one nothing is."""
    if posterior.inducing is not None and posterior.inducing.loose:
        return
    shared = posterior.data.shared_inputs >= SHARED
    by = "materials" if posterior.data.repeated else "inputs" if shared else None
    scored = left_out_scores(posterior, by, crps=False, regression=regression)
    k = scored["pareto_k"].values
    if np.isfinite(k).any():
        many = np.flatnonzero(k > 1.0)  # on a dozen rows a few are above 0.7 however sound the model
        worst = ", ".join(
            f"{scored['row'].values[i]} ({scored['task'].values[i]})" for i in many[np.argsort(-k[many])][:5]
        )
        meaning, advice = (
            f"Rows that theta hangs on: {worst}.",
            "Check these values; a refit without one may predict otherwise.",
        )
        if 2 * len(many) > len(k) > 1:
            meaning = (
                "the draws of theta can hardly be weighed, whichever row is left out: they, not the rows, are at fault."
            )
            advice = 'What is judged by leaving out (compare, transfer_report) is rough then: method="nuts" where it matters.'
        elif not len(many):
            meaning, advice = "theta hangs on no single row.", ""
        yield Finding("influential rows", "note" if len(many) else "good", len(many), meaning, advice)
    table = scores(scored)
    for name, line in table.iterrows():
        if "coverage_90" not in line or not np.isfinite(line["coverage_90"]):
            yield _of_classes(str(name), line, scored)
            continue
        own = scored.isel(row=np.flatnonzero(scored["task"].values == name))
        covered, groups = float(line["coverage_90"]), len(np.unique(own["group"].values))
        error = np.sqrt(0.09 / groups)
        off = abs(covered - 0.9) > max(0.03, 2.5 * error)
        alone = " (and with each all that was observed at its inputs)" if shared else ""
        if repeats := posterior.data.repeated:
            alone = f" (and with each all of the same {listed(repeats, 4)}, {groups} in all)"
        meaning = f"of the left-out values of {name}{alone} lie in their 90 % intervals (expected 0.9 +- {error:.2f})."
        law = posterior.data.tasks[posterior.data.index_of(str(name))].likelihood
        narrow = "outliers (try StudentT)" if law.kind == "numeric" else "outliers"
        if isinstance(law, Poisson):
            narrow = "counts that scatter more than a Poisson law (try NegativeBinomial)"
        yield Finding(
            f"coverage of {name}", "warning" if off else "good", covered, meaning,
            "" if not off else f"Intervals are too narrow: {narrow} or a jump."
            if covered < 0.9 else "Intervals are too wide: known errors may be overstated.",
        )  # fmt: skip
        advice = {Gaussian: "StudentT()", Hurdle: "Hurdle(StudentT(Softplus()))"}.get(type(law), "")
        if isinstance(law, Hurdle) and isinstance(law.positive, StudentT):
            advice = ""
        z = np.abs(torch.special.ndtri(torch.tensor(own["pit"].values).clamp(1e-12, 1 - 1e-12)).numpy())
        far = np.flatnonzero(z > 4)
        if len(far):
            shown = ", ".join(str(own["row"].values[i]) for i in far[np.argsort(-z[far])][:5])
            yield Finding(
                f"outliers of {name}", "note", len(far), f"Left-out values beyond four deviations: rows {shown}.",
                "Check them" + (f"; if they are right, observe the task with {advice}." if advice else "."),
            )  # fmt: skip
