"""Pages and pictures of docs/case-studies, from the results: python -m benchmarks.case_studies.pages [--examples [CASE ...]].

With `--examples` the code of each page, or of those named, is run again, and what it prints and draws replaced.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import textwrap
from collections.abc import Collection
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from benchmarks.case_studies.tables import CASES, Case
from benchmarks.colour import summary as of_colours
from benchmarks.report import RESULTS

COLOUR_PAGE = "colours beside gaps"
DOCS = Path(__file__).parents[2] / "docs" / "case-studies"
EXAMPLE = """
import matplotlib.pyplot as plt

import bayestl as btl
from bayestl import plots
from benchmarks.case_studies.tables import CASES

case = CASES["{name}"]
train, test = case.split({size}, paired=True, seed=0)
told = dict(inputs=[case.label], features={{case.label: case.features}})


def tasks(*names):
    return dict(tasks=names, units=dict.fromkeys(names, case.unit), likelihoods=dict.fromkeys(names, case.likelihood))


data = btl.TaskData.from_wide(train, **told, **tasks(*case.sources, case.target))
print(data.summary().T.to_string(), "\\n")

posterior = btl.fit({model}, data, seed=0)
print(btl.diagnose(posterior), "\\n")
print(btl.transfer_report(data, case.target), "\\n")

scored = posterior.score(btl.TaskData.from_wide(test, **told, **tasks(case.target)))
print(btl.scores(scored).T.round(3).to_string())

figure, axes = plt.subplots(1, 2, figsize=(9, 4))
plots.plot_parity(scored, ax=axes[0], unit=case.unit)
plots.plot_calibration(scored, ax=axes[1])
"""
COLOURS = """
import bayestl as btl
from bayestl.datasets import load_gaps_and_colours

table = load_gaps_and_colours()
inputs = [c for c in table.columns if c.startswith(("mean_", "range_"))]
held = table[table["colour"].notna()].iloc[::9]
known = table.assign(colour=table["colour"].where(~table.index.isin(held.index)))

data = btl.TaskData.from_wide(
    known, inputs=inputs, tasks=["gap", "colour"], errors={"gap": "gap_error"},
    likelihoods={"gap": btl.Gaussian(btl.Log()), "colour": btl.Categorical(lapse=None)},
)  # fmt: skip
print(data.summary()[["rows", "likelihood", "shared with gap"]].to_string(), "\\n")

posterior = btl.fit(btl.MultiTask(kernel=btl.Matern52() + btl.Identity()), data, seed=0)
told = posterior.predict(held, task="colour")
shown = told["probability"].to_pandas().round(2).set_axis(held.index)
print(shown.assign(recorded=held["colour"], gap=held["gap"].round(2)).to_string())
"""
SCORES = ["rmse", "mae", "nlpd", "coverage", "seconds"]
OURS = "bayestl "


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """Splits that every part was run on, and methods that saw all of these: medians over different splits do not compare."""
    setting = ["case", "size", "paired"]
    for method in ("bayestl fit_best", "BoTorch MultiTaskGP", "lolo, difference", "SMT MFK"):
        if (own := table["method"] == method).any():
            table = table[own.groupby([table[name] for name in (*setting, "seed")]).transform("any")]
    seen = table.groupby([*setting, "method"])["seed"].transform("nunique")
    return table[seen == table.groupby(setting)["seed"].transform("nunique")]


def summary(table: pd.DataFrame, pooled: bool) -> pd.DataFrame:
    """Median over the splits; over groups left out in turn, the scores of all rows together."""
    keys = ["size", "paired", "method"]
    if not pooled:
        return table.groupby(keys)[SCORES].median()
    weighted = table.assign(rmse=table["rmse"] ** 2)
    weighted[["rmse", "mae", "nlpd", "coverage"]] = weighted[["rmse", "mae", "nlpd", "coverage"]].mul(
        weighted["tests"], axis=0
    )
    found = weighted.groupby(keys)[[*SCORES, "tests"]].sum()
    found[["rmse", "mae", "nlpd", "coverage"]] = found[["rmse", "mae", "nlpd", "coverage"]].div(found["tests"], axis=0)
    found["seconds"] = table.groupby(keys)["seconds"].median()
    return found.assign(rmse=found["rmse"] ** 0.5)[SCORES]


def verdict(found: pd.DataFrame, splits: pd.DataFrame) -> str:
    """One sentence: the best of ours against the best rival, by each score, and in how many of the splits it is ahead."""
    ours, rivals = found[found.index.str.startswith(OURS)], found[~found.index.str.startswith(OURS)]
    said = []
    for score, name in (("rmse", "RMSE"), ("nlpd", "NLPD")):
        one, other = ours[score].idxmin(), rivals[score].idxmin()
        word = "below" if ours.loc[one, score] < rivals.loc[other, score] else "**above**"
        each = splits.pivot_table(index="seed", columns="method", values=score)
        ahead = (each[one] < each[other]).sum()
        said.append(
            f"{name} {ours.loc[one, score]:.3f} ({one.removeprefix(OURS)}), {word} {rivals.loc[other, score]:.3f} ({other}; "
            f"ours is ahead in {ahead} of {len(each)})"
        )
    return "; ".join(said) + "."


def by_the_others(table: pd.DataFrame, score: str, pooled: bool) -> pd.Series:
    """The score of a choice among the four that knows the test scores of all splits but the one it is made for."""
    four = table[table["method"].str.startswith(OURS) & (table["method"] != f"{OURS}fit_best")]
    others = four.groupby(["size", "paired", "method"])[score].transform("sum") - four[score]
    chosen = four.loc[others.groupby([four[name] for name in ("size", "paired", "seed")]).idxmin()]
    return summary(chosen.assign(method="chosen"), pooled)[score].droplevel("method")


def beforehand(settings: list[pd.DataFrame], chosen: pd.DataFrame) -> str:
    """How `fit_best`, which need not be picked by the test scores, stands in all settings; and what could be asked of it."""
    rows = []
    for found, other in zip(settings, chosen.itertuples(), strict=True):
        ours = found.index.str.startswith(OURS)
        own, four = found.loc[f"{OURS}fit_best"], found[ours].drop(f"{OURS}fit_best").min()
        rival, control = found[~ours].min(), found.loc[f"{OURS}SingleTask"]
        rows.append([own["rmse"] < rival["rmse"], own["nlpd"] < rival["nlpd"], own["rmse"] <= 1.02 * four["rmse"],
                     own["nlpd"] <= four["nlpd"] + 0.02, (own > control)[["rmse", "nlpd"]].any(), own["coverage"],
                     other.rmse <= 1.02 * four["rmse"], other.nlpd <= four["nlpd"] + 0.02])  # fmt: skip
    rmse, nlpd, near, level, behind, cover, near_other, level_other = np.array(rows, dtype=float).T
    return (
        f"Of {len(rows)} settings `fit_best` is below every rival in {rmse.sum():.0f} by RMSE and in {nlpd.sum():.0f} by "
        f"NLPD; within 2 % of the best of its four in {near.sum():.0f} by RMSE, within 0.02 nats in {level.sum():.0f} (of a "
        f"choice among the four that knew the test scores of all other splits: {near_other.sum():.0f} and "
        f"{level_other.sum():.0f}); behind the control in {behind.sum():.0f}. Its 90 % intervals cover {cover.mean():.2f} on "
        f"average ({cover.min():.2f} to {cover.max():.2f})."
    )


def markdown(found: pd.DataFrame) -> str:
    best = found[["rmse", "mae", "nlpd"]].min()
    lines = ["| method | RMSE | MAE | NLPD | 90 % coverage | seconds |", "|---|---|---|---|---|---|"]
    for method, row in found.iterrows():
        cells = [f"**{row[s]:.3f}**" if row[s] == best[s] else f"{row[s]:.3f}" for s in ("rmse", "mae", "nlpd")]
        lines.append(f"| {method} | {' | '.join(cells)} | {row['coverage']:.2f} | {row['seconds']:.1f} |")
    return "\n".join(lines)


def picture(found: pd.DataFrame, unit: str, file: Path) -> None:
    """RMSE and NLPD of every method in every setting, ours in colour."""
    import matplotlib.pyplot as plt

    settings = list(found.groupby(["size", "paired"], sort=True).groups)
    figure, axes = plt.subplots(2, len(settings), figsize=(3.4 * len(settings) + 2, 7), squeeze=False, sharey=True)
    order = found.groupby("method")["rmse"].median().sort_values(ascending=False).index
    for column, (size, paired) in enumerate(settings):
        one = found.loc[(size, paired)].reindex(order)
        for ax, score, label in zip(axes[:, column], ("rmse", "nlpd"), (f"RMSE ({unit})", "NLPD"), strict=True):
            colours = np.array(["tab:blue" if m.startswith(OURS) else "0.6" for m in order])
            rival = one[score][~one.index.str.startswith(OURS)].min()
            limit = rival + 2 * max(rival - one[score].min(), 0.05 * abs(rival))
            values, beyond = one[score].clip(upper=limit).to_numpy(), (one[score] > limit).to_numpy()
            at = np.arange(len(order))
            ax.scatter(values[~beyond], at[~beyond], c=colours[~beyond], zorder=3)
            ax.scatter(values[beyond], at[beyond], c=colours[beyond], marker=">", zorder=3)
            ax.axvline(rival, color="0.8", lw=1)
            ax.set_yticks(range(len(order)), order)
            ax.set_xlabel(label)
        axes[0, column].set_title(f"{f'{size} labels, ' if size else ''}{'paired' if paired else 'unpaired'}")
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


def example(name: str, case: Case, file: Path) -> str:
    """Run the code of a page; it, what it printed, and the picture it drew."""
    import matplotlib.pyplot as plt

    model = "btl.MultiTask()" if case.group else "btl.Difference({case.target: case.sources})"
    code = EXAMPLE.format(name=name, size=case.sizes[0] if case.sizes else 0, model=model).strip()
    shown, space = executed(code)
    space["figure"].tight_layout()
    space["figure"].savefig(file, dpi=100)
    plt.close(space["figure"])
    split = f"the first {case.group} left out" if case.group else f"{case.sizes[0]} labels, the first split"
    return block(f"{split}, paired", code, shown) + f"\n\n![]({file.name})"


def block(title: str, code: str, printed: list[str]) -> str:
    """Code, and what it printed."""
    lines = "\n".join(printed)
    return f"## Executed: {title}\n\n```python\n{code}\n```\n\n```text\n{lines}\n```"


def write_page(page: Path, title: str, example: str, results: str) -> None:
    """Write what comes from results, and an example if there is a new one, below what was written by hand."""
    text = page.read_text() if page.exists() else f"# {title}\n"
    text = text.split("<!-- results -->")[0]
    if example:
        text = f"{text.split('<!-- example -->')[0].rstrip()}\n\n<!-- example -->\n\n{example}\n"
    page.write_text(f"{text.rstrip()}\n\n<!-- results -->\n\n{results}")


def executed(code: str) -> tuple[list[str], dict]:
    """What some code prints, its long lines wrapped, and what it leaves behind."""
    printed, space = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(code, space)
    lines = [line.rstrip() for line in printed.getvalue().strip().splitlines()]
    wrapped = [part for line in lines for part in (textwrap.wrap(line, 128, subsequent_indent="    ") or [""])]
    return (lines if max(map(len, lines)) <= 128 else wrapped), space


def colours(examples: bool) -> None:
    """The page of the colours beside gaps, which are classes and have a benchmark of their own."""
    import matplotlib.pyplot as plt

    results = pd.read_csv(RESULTS / "colour.csv", keep_default_na=False)
    for name in ("log_loss", "brier", "hit"):
        results[name] = results[name].astype(float)
    found, page = of_colours(results), DOCS / "colours-beside-gaps.md"
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharex=True)
    for ax, setting in zip(axes, ("known", "not known"), strict=True):
        loss = found.xs(setting)["log loss"].sort_values(ascending=False)
        ours = [not name.startswith(("forest", "class")) for name in loss.index]
        ax.scatter(loss, loss.index, c=np.where(ours, "tab:blue", "0.6"))
        ax.set(xlabel="log loss", title=f"gap {setting}")
    figure.tight_layout()
    figure.savefig(DOCS / "colours-beside-gaps.png", dpi=100)
    plt.close(figure)
    made = ""
    if examples:
        made = block("every ninth colour held out", COLOURS.strip(), executed(COLOURS)[0])
    rows = [
        "| gap of the test compounds | method | log loss | Brier | accuracy | calibration error | seconds | times five-fold |",
        "|---" * 8 + "|",
    ]
    rows += [
        f"| {gap} | {method} | "
        + " | ".join(f"{v:.3f}" for v in line[:-2])
        + f" | {line.iloc[-2]:.1f} | {line.iloc[-1]:.0f} |"
        for (gap, method), line in found.iterrows()
    ]
    picture = "![Log loss of every method, ours in blue](colours-beside-gaps.png)"
    write_page(page, "Colours beside band gaps", made, "\n".join([picture, "", *rows, ""]))


def main(examples: Collection[str]) -> None:
    results = complete(pd.read_csv(RESULTS / "case_studies.csv"))
    DOCS.mkdir(parents=True, exist_ok=True)
    index, settings, chosen = [], [], []
    for name, case in CASES.items():
        own = results[results["case"] == name]
        if own.empty:
            continue
        slug = re.sub(r"\W+", "-", name.lower()).strip("-")
        found = summary(own, pooled=case.group is not None)
        chosen.append(pd.DataFrame({s: by_the_others(own, s, case.group is not None) for s in ("rmse", "nlpd")}))
        picture(found, case.unit, DOCS / f"{slug}.png")
        text = [f"![RMSE and NLPD of every method, ours in blue]({slug}.png)", ""]
        for (size, paired), part in found.groupby(["size", "paired"]):
            part = part.droplevel([0, 1])
            settings.append(part)
            splits = own[(own["size"] == size) & (own["paired"] == paired)]
            seeds, told = splits["seed"].nunique(), verdict(part, splits)
            setting = f"{f'{size} labels, ' if size else ''}{'paired' if paired else 'unpaired'}"
            index.append(f"| [{name}]({slug}.md) | {setting} | {seeds} | {told} |")
            kind = f"all rows of {seeds} {case.group}s" if case.group else f"median of {seeds} splits"
            text += [f"### {setting[0].upper()}{setting[1:]} ({kind})", "", told, "", markdown(part), ""]
        page = DOCS / f"{slug}.md"
        made = example(name, case, DOCS / f"{slug}-example.png") if name in examples else ""
        write_page(page, name, made, "\n".join(text))
    lines = [
        "| case | setting | splits | best of bayestl against the best rival |",
        "|---|---|---|---|",
        *index,
        "",
        beforehand(settings, pd.concat(chosen)),
        "",
    ]
    write_page(DOCS / "README.md", "Case studies", "", "\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", nargs="*", metavar="CASE", choices=[*CASES, COLOUR_PAGE])
    matplotlib.use("Agg")
    named = parser.parse_args().examples
    asked = [] if named is None else named or [*CASES, COLOUR_PAGE]
    main(asked)
    colours(COLOUR_PAGE in asked)
