"""Real tables that ride in on ordinary dependencies, so that nothing need be downloaded."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from importlib import resources

import numpy as np
import pandas as pd

from bayestl.errors import DataError
from bayestl.features import parse_formula

ELEMENT_DESCRIPTORS = (
    "period",
    "pettifor_number",
    "covalent_radius_cordero",
    "dipole_polarizability",
    "en_ghosh",
)
MEDIAN = float(np.sqrt(np.pi / 2))  # standard error of a median of three values or more, to that of their mean


def load_bulk_moduli() -> pd.DataFrame:
    """Bulk moduli of the elemental solids, computed and measured, with descriptors of the elements.

    Returns
    -------
    pandas.DataFrame
        Indexed by element symbol (71 rows). ``B_wien2k``: bulk modulus in GPa computed with PBE in WIEN2k (all rows);
        ``B_exp``: the measured one (58 rows, else NaN); and five descriptors: period, Pettifor number, covalent radius
        (pm), dipole polarisability (a.u.), electronegativity (Ghosh).

    Notes
    -----
    Moduli: the Delta project (Lejaeghere et al. 2014, doi 10.1080/10408436.2013.772503), from `ase.collections.dcdft`
    (LGPL). Descriptors: `mendeleev` (MIT). Of carbon the computed value is of graphite as PBE has it, which does not bind
    its layers; it is kept as published.

    Raises
    ------
    DataError
        When ase or mendeleev is not installed: ``pip install 'bayestl[demo]'``.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes of the dependencies to their own developers
            from ase.collections import dcdft
    except ImportError as error:
        raise DataError("The bulk moduli need ase and mendeleev: pip install 'bayestl[demo]'.") from error
    symbols = list(dcdft.names)
    moduli = pd.DataFrame({symbol: dcdft.data[symbol] for symbol in symbols}).T
    table = _elements().loc[symbols].astype(float)
    table.insert(0, "B_wien2k", moduli["wien2k_B"])
    table.insert(1, "B_exp", moduli["exp_B"])
    return table.rename_axis("element")


COLOURS = {
    "white": ("White", "Yellow-White"),
    "yellow": ("Yellow", "Pale Yellow", "Amber", "Ocher"),
    "orange": ("Orange", "Yellow-Orange", "Orange-Red", "Red-Yellow", "Copper-Red", "Bronze"),
    "red": ("Red", "Dark Red"),
    "brown": ("Brown", "Dark Brown", "Brown-Black"),
    "gray": ("Gray", "Light Gray"),
    "black": ("Black", "Dark Gray"),
    "blue to green": ("Blue", "Bluish", "Dark Green", "Violet"),
}


def load_gaps_and_colours() -> pd.DataFrame:
    """Band gaps and colours of inorganic semiconductors and insulators, with descriptors of their compositions.

    Returns
    -------
    pandas.DataFrame
        Indexed by formula (about 500 rows). ``gap``: the median of the measured gaps in eV; ``gap_error``: its standard error,
        from how much the records of one compound differ, pooled over the compounds; ``colour``: one of eight (81 rows,
        else None), the commonest where several are recorded; and for each of the element descriptors of `load_bulk_moduli` its
        mean over the atoms (``mean_*``) and its range over the elements (``range_*``).

    Notes
    -----
    Strehlow & Cook 1973 (doi 10.1063/1.3253115), 1,459 records, as `gemd` (Apache-2.0) carries them. Gaps differ with
    temperature, transition and polarisation; their median is taken. The 25 colour labels, most of them used once or
    twice, are merged into eight. Six compositions whose formula or elements `describe_compositions` cannot read are left
    out. Some records look wrong (white with a gap of 0.2 eV) and are kept as published.

    Raises
    ------
    DataError
        When gemd or mendeleev is not installed: ``pip install 'bayestl[demo]'``.
    """
    try:
        text = (resources.files("gemd") / "demo" / "strehlow_and_cook.pif").read_text(encoding="utf-8")
    except ModuleNotFoundError as error:
        raise DataError("The gaps and colours need gemd and mendeleev: pip install 'bayestl[demo]'.") from error
    merged = {label: name for name, labels in COLOURS.items() for label in labels}
    gaps: dict[str, list[float]] = defaultdict(list)
    colours: dict[str, list[str]] = defaultdict(list)
    for record in json.loads(text):
        for entry in record.get("properties", []):
            value = entry["scalars"][0].get("value")
            if entry["name"] == "Band gap" and entry.get("units") == "eV" and value is not None:
                gaps[record["chemicalFormula"]].append(float(value))
            elif entry["name"] == "Color":
                colours[record["chemicalFormula"]].append(merged[value])
    formulas = sorted({*gaps, *colours})
    logs = [np.log(own) for own in gaps.values() if len(own) > 1]
    spread = np.sqrt(sum(((y - y.mean()) ** 2).sum() for y in logs) / sum(len(y) - 1 for y in logs))
    table = pd.DataFrame(
        {
            "gap_error": [
                spread * float(np.median(own)) * (1.0 if len(own) < 3 else MEDIAN) / np.sqrt(len(own))
                if (own := gaps[formula])
                else np.nan
                for formula in formulas
            ],
            "gap": [float(np.median(gaps[formula])) if gaps[formula] else np.nan for formula in formulas],
            "colour": [
                max(sorted(set(seen)), key=seen.count) if (seen := colours[formula]) else None for formula in formulas
            ],
        },
        index=pd.Index(formulas, name="formula"),
    )
    return table.join(describe_compositions(formulas), how="inner")


def describe_compositions(formulas: list[str]) -> pd.DataFrame:
    """Mean over the atoms and range over the elements of each of the element descriptors, indexed by formula.

    Formulas that cannot be read (`features.parse_formula`) or hold an element without all descriptors are left out.
    """
    elements = _elements()
    lines = {}
    for formula in formulas:
        try:
            amounts = parse_formula(formula)
        except ValueError:
            continue
        if not all(symbol in elements.index for symbol in amounts):
            continue
        values, weights = elements.loc[list(amounts)].to_numpy(dtype=float), np.array(list(amounts.values()))
        means, ranges = weights @ values / weights.sum(), np.ptp(values, axis=0)
        lines[formula] = {f"mean_{name}": m for name, m in zip(ELEMENT_DESCRIPTORS, means, strict=True)} | {
            f"range_{name}": r for name, r in zip(ELEMENT_DESCRIPTORS, ranges, strict=True)
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("formula")


def _elements() -> pd.DataFrame:
    """Descriptors of the elements, indexed by symbol."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes of the dependency to its own developers
            from mendeleev.fetch import fetch_table

            table = fetch_table("elements").set_index("symbol")[list(ELEMENT_DESCRIPTORS)]
    except ImportError as error:
        raise DataError("Descriptors of the elements need mendeleev: pip install 'bayestl[demo]'.") from error
    return table.dropna()
