"""The cases: tables with one row per material, what describes it, and how they are split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd

import bayestl as btl
from bayestl import datasets
from bayestl.features import parse_formula
from bayestl.likelihoods import Likelihood

FEW = 50  # labels up to which splits differ so much, by a factor of two in RMSE, that five of them tell little


@dataclass(frozen=True)
class Case:
    """A table with one row per material.

    `label` is the column that `features` describes; `group` names what is split by; `sizes` are numbers of target values to
    learn from (none: leave one group out).
    """

    name: str
    read: Callable[[], pd.DataFrame]
    target: str
    sources: tuple[str, ...]
    unit: str
    features: btl.Features
    sizes: tuple[int, ...] = ()
    label: str = "formula"
    group: str | None = None
    likelihood: Likelihood = field(default_factory=btl.Gaussian)
    offset: float | None = None  # of a square root, for those rivals that profit from one as we do
    tests: int = 200

    @cache  # noqa: B019 - cases live as long as the program
    def table(self) -> pd.DataFrame:
        return self.read()

    @cache  # noqa: B019
    def described(self) -> pd.DataFrame:
        """Numbers for the rivals, indexed like the table."""
        table = self.table()
        return pd.DataFrame(self.features(table[self.label].tolist()).to_numpy(dtype=float), index=table.index)

    def repeats(self, size: int, seeds: int) -> int:
        """Number of splits: twice as many with few labels, where they differ most; that of the groups where one is left out."""
        if self.group is None:
            return 2 * seeds if size <= FEW else seeds
        return self.table().dropna(subset=[self.target])[self.group].nunique()

    def split(self, size: int, paired: bool, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        table = self.table()
        known = table.index[table[self.target].notna()]
        if self.group is not None:
            test = known[table.loc[known, self.group] == sorted(table[self.group].unique())[seed]]
            labelled = known.difference(test)
            outside = table.index[table[self.group] == table.loc[test[0], self.group]]
        else:
            order = np.random.default_rng(seed).permutation(known)
            tests = min(self.tests, len(order) - size)
            test, labelled, outside = order[:tests], order[tests : tests + size], order[:tests]
        train = table.copy()
        train.loc[train.index.difference(labelled), self.target] = np.nan
        if not paired:
            train.loc[outside, list(self.sources)] = np.nan
        train = train[train[[*self.sources, self.target]].notna().any(axis=1)]
        return train, table.loc[test]


def by_composition(table: pd.DataFrame, values: list[str], how: str = "median") -> pd.DataFrame:
    """Merge polymorphs and repeats: one row per composition, whatever way its formula is written."""

    def reduced(formula: str) -> tuple:
        amounts = parse_formula(formula)
        total = sum(amounts.values())
        return tuple(sorted((element, round(amount / total, 4)) for element, amount in amounts.items()))

    key = table["formula"].map(reduced)
    merged = table.groupby(key, sort=False).agg({"formula": "first", **dict.fromkeys(values, how)})
    return merged.reset_index(drop=True)


def borlido(*sources: str) -> Callable[[], pd.DataFrame]:
    return lambda: by_composition(datasets.load_borlido_gaps(), [*sources, "gap_experiment"])


def measured_and_computed_gaps() -> pd.DataFrame:
    """Measured gaps of non-metals beside the lowest Materials Project gap of the composition, and 800 other computed ones."""
    measured = by_composition(datasets.load_kingsbury_gaps().query("gap_experiment > 0"), ["gap_experiment"])
    computed = datasets.load_materials_project_gaps()
    # Sorting by the same key costs a minute for 106,000 formulas; only those of the same elements can agree.
    wanted = {frozenset(parse_formula(f)) for f in measured["formula"]}
    matching = computed[[frozenset(parse_formula(f)) in wanted for f in computed["formula"]]]
    others = computed.drop(matching.index).sample(800, random_state=0)
    both = pd.concat([measured, matching, others], ignore_index=True)
    merged = by_composition(both, ["gap_experiment", "gap_pbe"], "min")
    lone = merged.index[merged["gap_experiment"].isna()]
    extra = np.random.default_rng(0).permutation(lone)[:800]
    chosen = np.random.default_rng(1).permutation(merged.index[merged["gap_experiment"].notna()])[:700]
    return merged.loc[np.sort(np.concatenate([chosen, extra]))].reset_index(drop=True)


def enthalpies() -> pd.DataFrame:
    values = ["e_form_mp", "e_form_oqmd", "e_form_experiment"]
    table = datasets.load_formation_enthalpies().dropna(subset=["e_form_experiment"])
    return by_composition(table, values)


NO_STEPS = ("ea_n2_gas", "ea_o2_gas", "ea_no_adsorbed")


def no_steps() -> pd.DataFrame:
    """Barriers of three steps on 50 surfaces of ten metals; those that follow exactly from others are left out."""
    table = datasets.load_no_steps()[list(NO_STEPS)].reset_index()
    return table.assign(surface=[f"{m}({t})" for m, t in zip(table["metal"], table["termination"], strict=True)])


GAP = btl.Gaussian(btl.Sqrt(1.0))
CASES = {
    case.name: case
    for case in (
        Case("gaps of 450 solids, PBE", borlido("gap_pbe"), "gap_experiment", ("gap_pbe",), "eV", btl.Compositions(),
             (30, 150), likelihood=GAP, offset=1.0),
        Case("gaps of 450 solids, four functionals", borlido("gap_pbe", "gap_scan", "gap_mbj", "gap_hse06"), "gap_experiment",
             ("gap_pbe", "gap_scan", "gap_mbj", "gap_hse06"), "eV", btl.Compositions(), (30, 150), likelihood=GAP, offset=1.0),
        Case("measured gaps, Materials Project", measured_and_computed_gaps, "gap_experiment", ("gap_pbe",), "eV",
             btl.Compositions() + btl.Valences(), (50, 300), likelihood=GAP, offset=1.0),  # metals are among the computed
        Case("formation enthalpies", enthalpies, "e_form_experiment", ("e_form_mp", "e_form_oqmd"), "eV/atom",
             btl.Compositions(), (30, 150)),
        Case("NO dissociation, one metal left out", no_steps, "ea_no_adsorbed", ("ea_n2_gas", "ea_o2_gas"), "eV",
             btl.Surfaces(), label="surface", group="metal"),
        Case("hydration free energies", datasets.load_freesolv, "experiment", ("gaff",), "kcal/mol", btl.Molecules(), (50,),
             label="smiles"),
    )
}  # fmt: skip
