"""The demo: a dozen measured bulk moduli beside computed ones, four models; and colours beside band gaps, in one model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from bayestl.datasets import ELEMENT_DESCRIPTORS, load_bulk_moduli, load_gaps_and_colours
from bayestl.fitting import fit
from bayestl.kernels import Identity, Matern52
from bayestl.likelihoods import Categorical, Gaussian, Log
from bayestl.models.base import Model
from bayestl.models.difference import Difference
from bayestl.models.latent import LatentTask
from bayestl.models.multitask import MultiTask
from bayestl.models.single import SingleTask
from bayestl.posterior import Posterior
from bayestl.table import TaskData

SOURCE, TARGET, UNIT = "B_wien2k", "B_exp", "GPa"
MEASURED = 12
HIDDEN = 16
PAINT = {
    "white": "#fafafa", "yellow": "#f4d35e", "orange": "#ee964b", "red": "#c1121f", "brown": "#7f5539", "gray": "#a5a5a5",
    "black": "#1b1b1b", "blue to green": "#2a9d8f",
}  # fmt: skip


def run(folder: str | Path = "bayestl-demo", seed: int = 0, say: Callable[[str], None] = print) -> dict[str, Posterior]:
    """Run both parts, print what they find, and write pictures and posterior files.

    Parameters
    ----------
    folder : where the files go; made if need be
    seed : of the choice of the rows that are held out, and of the fits
    say : receives each line of text

    Returns
    -------
    dict
        The fitted posteriors by name.
    """
    began = time.perf_counter()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    posteriors = moduli(folder, seed, say) | colours(folder, seed, say)
    say(f"\nTook {time.perf_counter() - began:.0f} s. btl.load reads the posterior files back.")
    return posteriors


def moduli(folder: Path, seed: int, say: Callable[[str], None]) -> dict[str, Posterior]:
    """Fit the four models to bulk moduli and judge them on the held-out measurements."""
    train, test = split(load_bulk_moduli(), seed)
    say(
        f"1. Bulk moduli of the elements: {train.counts[0]} computed (PBE, WIEN2k), {train.counts[1]} of {len(test) + MEASURED} "
        f"measured ones kept.\nThe task: predict the other {len(test)} measurements.\n"
    )
    models: dict[str, Model] = {
        "single task": SingleTask(),
        "multi-task": MultiTask(),
        "difference": Difference.chain(SOURCE, TARGET),
        "latent task": LatentTask(),
    }
    posteriors = {name: fit(model, train, seed=seed) for name, model in models.items()}
    scores = {name: posterior.score(test) for name, posterior in posteriors.items()}
    table = scoreboard(posteriors, scores)
    say(
        table.round({f"RMSE ({UNIT})": 1, "NLPD": 2, f"CRPS ({UNIT})": 1, "90 % coverage": 2, "seconds": 1}).to_string()
    )
    say("\n" + verdict(posteriors, scores) + "\n")
    best = table["NLPD"].drop("single task").idxmin()
    picture = draw(posteriors[str(best)], test, str(best), folder / "bulk-moduli.png")
    saved = posteriors[str(best)].save(folder / "bulk-moduli.nc")
    say(f"Picture:   {picture.resolve()}")
    say(f"Posterior: {saved.resolve()}")
    return posteriors


def colours(folder: Path, seed: int, say: Callable[[str], None]) -> dict[str, Posterior]:
    """Predict the colours of held-out compounds whose gap is known, with the gaps of five hundred and without them."""
    table = load_gaps_and_colours()
    inputs = [str(name) for name in table if str(name).startswith(("mean_", "range_"))]
    coloured = table.index[table["colour"].notna() & table["gap"].notna()]
    held_out = np.random.default_rng(seed).permutation(coloured)[:HIDDEN]
    train = table.assign(colour=table["colour"].mask(table.index.isin(held_out)))
    say(
        f"\n2. Colours of inorganic compounds (Strehlow & Cook 1973): {table['gap'].notna().sum()} band gaps and "
        f"{train['colour'].notna().sum()} colours in {table['colour'].nunique()} classes,\none model of both. The task: predict "
        f"the colours of {HIDDEN} compounds more, whose gap is known.\n"
    )
    both = TaskData.from_wide(
        train, inputs=inputs, tasks=["gap", "colour"], units={"gap": "eV"}, errors={"gap": "gap_error"},
        likelihoods={"gap": Gaussian(Log()), "colour": Categorical(lapse=None)},  # some recorded colours are wrong
    )  # fmt: skip
    # What a compound has of its own, beyond what its composition tells, shows in its gap and in its colour alike.
    posteriors = {
        "colour alone": fit(SingleTask(), both.select(["colour"]), seed=seed),
        "colour beside gap": fit(MultiTask(kernel=Matern52() + Identity()), both, seed=seed),
    }
    truth = table.loc[held_out].drop(columns=["gap", "gap_error"])
    test = TaskData.from_wide(truth, inputs=inputs, tasks=["colour"], likelihoods={"colour": Categorical()})
    lines = {}
    share = train["colour"].value_counts(normalize=True)
    guess = -np.log(share[truth["colour"]].to_numpy())
    lines["class frequencies"] = {"log loss": guess.mean(), "right": float((truth["colour"] == share.idxmax()).mean())}
    for name, posterior in posteriors.items():
        score = posterior.score(test)
        labels = posterior.predict(truth, task="colour")["label"].to_numpy()
        lines[name] = {
            "log loss": -float(score["log_density"].mean()),
            "right": float((labels == truth["colour"].to_numpy()).mean()),
            "seconds": posterior.record.seconds["total"],
        }
    say(pd.DataFrame(lines).T.round({"log loss": 2, "right": 2, "seconds": 1}).to_string(na_rep=""))
    picture = draw_colours(posteriors["colour beside gap"], table.loc[held_out], folder / "colours.png")
    saved = posteriors["colour beside gap"].save(folder / "colours.nc")
    say(f"\nPicture:   {picture.resolve()}")
    say(f"Posterior: {saved.resolve()}")
    return posteriors


def split(table: pd.DataFrame, seed: int) -> tuple[TaskData, TaskData]:
    """All computed values and a random dozen of the measured ones to learn from; the rest of the measured to test."""
    measured = table.index[table[TARGET].notna()]
    held_out = np.random.default_rng(seed).permutation(measured)[MEASURED:]
    inputs = list(ELEMENT_DESCRIPTORS)
    train = table.assign(**{TARGET: table[TARGET].mask(table.index.isin(held_out))})
    return (
        TaskData.from_wide(train, inputs=inputs, tasks=[SOURCE, TARGET], units={SOURCE: UNIT, TARGET: UNIT}),
        TaskData.from_wide(table.loc[held_out], inputs=inputs, tasks=[TARGET], units={TARGET: UNIT}),
    )


def scoreboard(posteriors: dict[str, Posterior], scores: dict[str, xr.Dataset]) -> pd.DataFrame:
    """One line per model."""
    return pd.DataFrame(
        {
            name: {
                f"RMSE ({UNIT})": float((score["error"] ** 2).mean() ** 0.5),
                "NLPD": -float(score["log_density"].mean()),
                f"CRPS ({UNIT})": float(score["crps"].mean()),
                "90 % coverage": float(((score["pit"] > 0.05) & (score["pit"] < 0.95)).mean()),
                "seconds": posteriors[name].record.seconds["total"],
            }
            for name, score in scores.items()
        }
    ).T


def verdict(posteriors: dict[str, Posterior], scores: dict[str, xr.Dataset]) -> str:
    """Say in a sentence what the source bought, with the standard error of the paired difference."""
    best = max(
        (name for name in scores if name != "single task"), key=lambda name: float(scores[name]["log_density"].mean())
    )
    gain = scores[best]["log_density"] - scores["single task"]["log_density"]
    error = float(gain.std(ddof=1)) / np.sqrt(gain.size)
    mae = {name: float(np.abs(scores[name]["error"]).mean()) for name in (best, "single task")}
    correlation = posteriors[best].task_correlation()["mean"].sel(task=TARGET, other_task=SOURCE)
    return (
        f"What the computed values bought ({best}): the mean absolute error falls from {mae['single task']:.0f} to "
        f"{mae[best]:.0f} {UNIT} and each\nprediction gains {float(gain.mean()):.1f} +- {error:.1f} nats; computed and measured "
        f"moduli are correlated by {float(correlation):.2f} across the elements."
    )


def draw(posterior: Posterior, test: TaskData, name: str, path: Path) -> Path:
    """Parity plot with 90 % intervals, and the correlation of the tasks."""
    from matplotlib.figure import Figure

    predicted = posterior.predict(test.to_frame(), task=TARGET)
    low, high = (predicted["quantile"].sel(quantile_level=q) for q in (0.05, 0.95))
    mean, truth = predicted["mean"].to_numpy(), test.values
    inside = (truth >= low.to_numpy()) & (truth <= high.to_numpy())
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    for mask, colour, label in ((inside, "#2a6f97", "inside its interval"), (~inside, "#c1121f", "outside")):
        if mask.any():
            left.errorbar(
                truth[mask], mean[mask], yerr=[(mean - low.to_numpy())[mask], (high.to_numpy() - mean)[mask]], fmt="o",
                ms=4, lw=1, color=colour, alpha=0.85, label=f"{label} ({mask.sum()})",
            )  # fmt: skip
    ends = [min(truth.min(), mean.min()), max(truth.max(), mean.max())]
    left.plot(ends, ends, color="black", lw=0.8)
    for i in np.argsort(-np.abs(mean - truth))[:5]:
        left.annotate(str(test.rows[i]), (truth[i], mean[i]), xytext=(5, -3), textcoords="offset points", fontsize=9)
    left.set(
        xlabel=f"measured bulk modulus ({UNIT})", ylabel=f"predicted ({UNIT})",
        title=f"{name}: {len(test)} held-out elements, 90 % intervals",
    )  # fmt: skip
    left.legend(frameon=False, loc="upper left")
    correlation = posterior.task_correlation()
    image = right.imshow(correlation["mean"], vmin=-1, vmax=1, cmap="RdBu_r")
    names = list(posterior.data.names)
    right.set_xticks(range(len(names)), names)
    right.set_yticks(range(len(names)), names)
    for i in range(len(names)):
        for j in range(len(names)):
            value, spread = float(correlation["mean"][i, j]), float(correlation["std"][i, j])
            text = f"{value:.2f}" + (f"\n+- {spread:.2f}" if i != j else "")
            right.text(j, i, text, ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
    right.set_title("inferred correlation of the tasks")
    figure.colorbar(image, ax=right, shrink=0.8)
    figure.savefig(path, dpi=130)
    return path


def draw_colours(posterior: Posterior, test: pd.DataFrame, path: Path) -> Path:
    """Predicted probabilities of the colours of some compounds, by gap, and the colour that each has."""
    from matplotlib.figure import Figure

    test = test.sort_values("gap")
    chance = posterior.predict(test, task="colour")["probability"]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    base = np.zeros(len(test))
    for name in (name for name in PAINT if name in chance["class"].to_numpy()):
        p = chance.sel({"class": name}).to_numpy()
        axes.bar(range(len(test)), p, bottom=base, color=PAINT[name], edgecolor="#777777", linewidth=0.5, label=name)
        base += p
    axes.scatter(
        range(len(test)), np.full(len(test), 1.06), marker="s", s=160, c=[PAINT[c] for c in test["colour"]],
        edgecolors="#777777", clip_on=False,
    )  # fmt: skip
    labels = [f"{formula}\n{gap:.1f} eV" for formula, gap in zip(test.index, test["gap"], strict=True)]
    axes.set_xticks(range(len(test)), labels, rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="probability", ylim=(0, 1.12), xlim=(-0.6, len(test) - 0.4))
    axes.set_title(f"Colours of {len(test)} held-out compounds: predicted (bars) and recorded (squares)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=130)
    return path
