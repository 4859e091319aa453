"""Numbers that describe materials: compositions, element fractions, molecules, surfaces.

Each of these is a function from a column of labels to a table of numbers. `TaskData` takes it for a column by
``features={"formula": btl.Compositions()}``, and the column may then be given as it is, when predicting too.
Names read ``family: descriptor``, so that the kernels know which descriptors belong together.
"""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayestl.errors import DataError, listed

STATISTICS = ("minimum", "maximum", "range", "mean", "deviation", "mode")


class Features(ABC):
    """A function from labels to numbers, one row for each label; the columns must not depend on the labels."""

    @abstractmethod
    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        """Describe the labels, in their order.

        Raises
        ------
        DataError
            Naming the labels that cannot be read.
        """

    def __add__(self, other: Features) -> Features:
        """The columns of both: ``Compositions() + Valences()``."""
        return Joined(self, other)


@dataclass(frozen=True)
class Joined(Features):
    """The columns of two: what ``a + b`` makes."""

    first: Features
    second: Features

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        return pd.concat([self.first(labels), self.second(labels)], axis=1)


@dataclass(frozen=True)
class Compositions(Features):
    """Statistics over the elements of a composition, as Magpie has them (Ward et al. 2016, doi 10.1038/npjcompumats.2016.28).

    Minimum, maximum, range, mean, mean absolute deviation (both weighted by the amounts) and the value of the most abundant
    element, of each property of the elements. Formulas may hold parentheses and fractions: ``Ca(OH)2``, ``Ga0.5As0.5``.

    Parameters
    ----------
    preset : ``"elements"``: 22 properties from mendeleev (position in the periodic table, size, electronegativity, ionisation
        energy, polarisability, density, filled and empty valence states), 132 columns, elements up to Cf.
        ``"magpie"``: matminer's own preset, 132 columns; needs ``pip install 'bayestl[magpie]'``

    Examples
    --------
    >>> import bayestl as btl
    >>> btl.Compositions()(["GaAs", "Ga0.5Al0.5As"])["mean: period"].tolist()
    [4.0, 3.75]
    """

    preset: str = "elements"

    def __post_init__(self) -> None:
        if self.preset not in ("elements", "magpie"):
            raise ValueError(f"`preset` must be 'elements' or 'magpie'; got {self.preset!r}.")

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        table = _element_properties() if self.preset == "elements" else _magpie_properties()
        amounts = fractions(labels, tuple(table.index))
        values = table.to_numpy(dtype=float)
        present = amounts > 0
        mean = amounts @ values
        low, high, deviation, mode = (np.empty_like(mean) for _ in range(4))
        for j in range(values.shape[1]):  # over properties; rows are batched
            own = np.where(present, values[:, j], np.nan)
            low[:, j], high[:, j] = np.nanmin(own, axis=1), np.nanmax(own, axis=1)
            deviation[:, j] = (amounts * np.abs(values[:, j] - mean[:, [j]])).sum(1)
            # As Magpie has it: of several elements that are equally abundant, the smallest value.
            most = np.where(amounts >= amounts.max(1, keepdims=True) - 1e-12, values[:, j], np.inf)
            mode[:, j] = most.min(1)
        parts = dict(zip(STATISTICS, (low, high, high - low, mean, deviation, mode), strict=True))
        return pd.concat(
            [pd.DataFrame(part, columns=[f"{s}: {p}" for p in table]) for s, part in parts.items()], axis=1
        )


@dataclass(frozen=True)
class ElementFractions(Features):
    """Atomic fraction of each element from H to Cf: 98 columns, for tables with few elements and many compositions."""

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        symbols = tuple(_element_properties().index)
        return pd.DataFrame(fractions(labels, symbols), columns=[f"fraction: {symbol}" for symbol in symbols])


@dataclass(frozen=True)
class Valences(Features):
    """Whether the electrons of a composition are accounted for, which tells insulators from metals: 16 columns.

    *valence*: the charge per atom that is left when each element takes the oxidation state that balances them best, of the
    common ones and of all known ones; the same when the most electronegative elements, as many as is best, take the electrons
    that fill their shell (8 - N rule) and the others give some; what is then left if these give their least and their
    most, and how far zero is outside of that interval (mixed valence may lie within). Electrons that fill the shell of the
    most electronegative element, relative to the valence electrons there are (Pearson 1964, doi 10.1107/S0365110X64000019);
    share of elements that form anions; whether the number of electrons of the formula unit is odd (1/2 where amounts are
    not whole), as bands cannot then all be full.

    *bond*: largest and mean ionic character of a pair of atoms, 1 - exp(-(difference of electronegativities)^2 / 4) (Pauling
    1960), greatest and mean electronegativity, number of elements, and the Euclidean norm of the atomic fractions.

    Oxidation states and Pauling's electronegativities are mendeleev's. Made to be added: ``Compositions() + Valences()``.

    Examples
    --------
    >>> import bayestl as btl
    >>> btl.Valences()(["NaCl", "Fe3O4", "NiAl"])["valence: outside"].tolist()
    [0.0, 0.0, 2.5]
    """

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        elements = {str(row.Index): row for row in _valences().itertuples()}
        read = _amounts(labels, list(elements))
        rows = [_count_electrons([elements[symbol] for symbol in own], np.array(list(own.values()))) for own in read]
        return pd.DataFrame(rows, columns=list(VALENCE)).astype(float)


@dataclass(frozen=True)
class Molecules(Features):
    """Descriptors of molecules given as SMILES, by RDKit: ``pip install 'bayestl[molecules]'``.

    Four families: physical and topological descriptors (logP, molar refractivity, polar surface, counts of donors, rings and
    rotatable bonds), surface area by logP, refractivity and charge (the VSA descriptors), functional groups, and atoms.

    Raises
    ------
    DataError
        Naming the SMILES that RDKit cannot read.
    """

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        try:
            from rdkit import Chem, RDLogger
            from rdkit.Chem import Descriptors, rdMolDescriptors
        except ImportError as error:
            raise DataError("Descriptors of molecules need RDKit: pip install 'bayestl[molecules]'.") from error
        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
        molecules = [Chem.MolFromSmiles(str(label)) for label in labels]
        if bad := [label for label, molecule in zip(labels, molecules, strict=True) if molecule is None]:
            raise DataError(
                f"These are not SMILES that RDKit can read: {listed([repr(b) for b in dict.fromkeys(bad)])}."
            )
        physical = (
            "MolWt", "MolLogP", "MolMR", "TPSA", "LabuteASA", "NumHDonors", "NumHAcceptors", "NumRotatableBonds", "RingCount",
            "NumAromaticRings", "FractionCSP3", "HeavyAtomCount", "NumHeteroatoms", "MaxPartialCharge", "MinPartialCharge",
            "BalabanJ", "BertzCT", "Kappa1", "Kappa2", "Kappa3", "Chi0v", "Chi1v",
        )  # fmt: skip
        functions = dict(Descriptors.descList)
        groups = sorted(name for name in functions if name.startswith("fr_"))
        rows = []
        for molecule in molecules:
            atoms = Counter(atom.GetSymbol() for atom in Chem.AddHs(molecule).GetAtoms())
            row = {f"physical: {name}": functions[name](molecule) for name in physical}
            for name, bins in (
                ("SlogP_VSA", rdMolDescriptors.SlogP_VSA_(molecule)),
                ("SMR_VSA", rdMolDescriptors.SMR_VSA_(molecule)),
                ("PEOE_VSA", rdMolDescriptors.PEOE_VSA_(molecule)),
            ):
                row |= {f"surface: {name}{i + 1}": value for i, value in enumerate(bins)}
            row |= {f"group: {name[3:]}": functions[name](molecule) for name in groups}
            row |= {
                f"atoms: {symbol}": atoms[symbol] for symbol in ("H", "C", "N", "O", "F", "S", "P", "Cl", "Br", "I")
            }
            rows.append(row)
        table = pd.DataFrame(rows).astype(float)
        return table.where(np.isfinite(table), 0.0)  # partial charges of atoms that have none


COORDINATION = {"111": 9, "100": 8, "110": 7, "211": 7, "311": 7, "532": 6, "0001": 9, "10-10": 8}


@dataclass(frozen=True)
class Surfaces(Features):
    """Surfaces of elemental metals written as metal and facet: ``Pt(111)``, ``Pt 111`` or ``Pt111``.

    Of the metal: group, period, covalent radius, electronegativity, ionisation energy and the filling of its d shell. Of the
    facet: how many neighbours the least coordinated surface atom has (a close-packed crystal has 12), which orders
    terraces, steps and kinks.

    Raises
    ------
    DataError
        Naming surfaces that cannot be read, and facets whose coordination number is not known.
    """

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        found = [re.fullmatch(r"\s*([A-Z][a-z]?)[\s(_-]*([\d-]+)\)?\s*", str(label)) for label in labels]
        table = _element_properties()
        bad = [
            str(label)
            for label, match in zip(labels, found, strict=True)
            if not match or match[1] not in table.index or match[2] not in COORDINATION
        ]
        if bad:
            raise DataError(
                f"Surfaces that cannot be read: {listed(list(dict.fromkeys(bad)))}. Write the metal and one of the facets "
                f"{listed(list(COORDINATION), 20)}: 'Pt(111)'."
            )
        metals = table.loc[[match[1] for match in found if match]].reset_index(drop=True)
        columns = ["group", "period", "covalent radius", "electronegativity", "ionisation energy", "d electrons"]
        return metals[columns].assign(coordination=[float(COORDINATION[match[2]]) for match in found if match])


# -- elements ---------------------------------------------------------------------------------------------------------


def fractions(labels: Sequence[Any], symbols: Sequence[str]) -> NDArray[np.float64]:
    """Atomic fractions (n, elements) of formulas; a `DataError` names those that cannot be read."""
    place = {symbol: j for j, symbol in enumerate(symbols)}
    out = np.zeros((len(labels), len(symbols)))
    for i, own in enumerate(_amounts(labels, symbols)):
        for symbol, amount in own.items():
            out[i, place[symbol]] = amount
    return out / out.sum(1, keepdims=True)


def _amounts(labels: Sequence[Any], symbols: Sequence[str]) -> list[dict[str, float]]:
    """Amounts of the elements of each formula; a `DataError` names those that cannot be read."""
    out, bad, known = [], {}, frozenset(symbols)
    for label in map(str, labels):
        try:
            out.append(parse_formula(label))
            if unknown := [symbol for symbol in out[-1] if symbol not in known]:
                bad[label] = f"no properties of {unknown[0]}"
        except ValueError as error:
            bad[label] = str(error)
    if bad:
        raise DataError(
            f"{len(bad)} formulas cannot be read: {listed([f'{label!r} ({why})' for label, why in bad.items()])}. "
            "Correct them or drop their rows."
        )
    return out


_TOKEN = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?|([(\[{])|([)\]}])(\d+\.?\d*|\.\d+)?")


def parse_formula(formula: str) -> dict[str, float]:
    """Amounts of the elements of a formula such as ``Ca(OH)2`` or ``Ga0.5As0.5``.

    Raises
    ------
    ValueError
        Saying at which character the formula cannot be read.

    Examples
    --------
    >>> parse_formula("Ca3(PO4)2")
    {'Ca': 3.0, 'P': 2.0, 'O': 8.0}
    """
    levels: list[dict[str, float]] = [{}]
    position, text = 0, formula.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"character {position + 1}, {text[position]!r}, is not understood")
        symbol, amount, opening, _, times = match.groups()
        if symbol:
            levels[-1][symbol] = levels[-1].get(symbol, 0.0) + float(amount or 1)
        elif opening:
            levels.append({})
        else:
            if len(levels) == 1:
                raise ValueError(f"the bracket at character {position + 1} closes nothing")
            for symbol, amount in levels.pop().items():
                levels[-1][symbol] = levels[-1].get(symbol, 0.0) + float(amount) * float(times or 1)
        position = match.end()
    if len(levels) > 1:
        raise ValueError("a bracket is not closed")
    found = {symbol: amount for symbol, amount in levels[0].items() if amount > 0}
    if not found:
        raise ValueError("it holds no element")
    return found


SHELLS = {"s": 2, "p": 6, "d": 10, "f": 14}


@cache
def _element_properties() -> pd.DataFrame:
    """Properties of the elements up to Cf, complete, indexed by symbol; from mendeleev (MIT)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes of the dependency to its own developers
            from mendeleev.fetch import fetch_table

            raw = fetch_table("elements").iloc[:98].set_index("symbol")
            energies = fetch_table("ionizationenergies")
    except ImportError as error:
        raise DataError("Properties of the elements need mendeleev: pip install 'bayestl[features]'.") from error
    first = energies[energies["ion_charge"] == 0].groupby("atomic_number")["ionization_energy"].first()
    table = pd.DataFrame(
        {
            "number": raw["atomic_number"],
            "mendeleev number": raw["mendeleev_number"],
            "pettifor number": raw["pettifor_number"],
            "period": raw["period"],
            "group": raw["group_id"].fillna(3.0),  # of the f block
            "weight": raw["atomic_weight"],
            "covalent radius": raw["covalent_radius_pyykko"],
            "van der Waals radius": raw["vdw_radius_uff"],
            "electronegativity": raw["en_ghosh"],
            "polarisability": raw["dipole_polarizability"],
            "ionisation energy": raw["atomic_number"].map(first),
            "density": np.log10(raw["density"]),
            "atomic volume": raw["atomic_weight"] / raw["density"],
        }
    ).astype(float)
    # Gases have a volume of their own kind; that of their atoms is told by the radii.
    table["atomic volume"] = table["atomic volume"].clip(upper=100.0)
    outer = raw["electronic_configuration"].map(_valence)
    for shell, room in SHELLS.items():
        filled = outer.map(lambda own, shell=shell: float(own.get(shell, 0)))
        table[f"{shell} electrons"] = filled
        table[f"{shell} holes"] = np.where(filled > 0, room - filled, 0.0)
    table["valence electrons"] = outer.map(lambda own: float(sum(own.values())))
    return table


VALENCE = (
    "valence: imbalance", "valence: imbalance, any state", "valence: left", "valence: left, any state", "valence: least left",
    "valence: most left", "valence: outside", "valence: shells to fill", "valence: anions", "valence: odd",
    "bond: ionic, most", "bond: ionic, mean", "bond: electronegativity, greatest", "bond: electronegativity, mean",
    "bond: elements", "bond: norm",
)  # fmt: skip


@cache
def _valences() -> pd.DataFrame:
    """Oxidation states of the elements up to Cf, the charge of their anion, electronegativity and electrons, by symbol."""
    properties = _element_properties()
    from mendeleev.fetch import fetch_table

    raw = fetch_table("elements").iloc[:98].set_index("symbol")
    states = fetch_table("oxidationstates").query("oxidation_state != 0")
    common = states[states["category"] == "main"].groupby("atomic_number")["oxidation_state"].agg(set)
    known = states.groupby("atomic_number")["oxidation_state"].agg(set)
    table = pd.DataFrame(index=properties.index)
    table["electrons"] = raw["atomic_number"]
    table["outer"] = properties["valence electrons"]
    table["anion"] = [-1 if symbol == "H" else group - 18 for symbol, group in properties["group"].items()]
    table["anion"] = table["anion"].where(table["anion"].between(-4, -1), 0)
    table["common"], table["known"] = ([own.get(z, {0}) for z in table["electrons"]] for own in (common, known))
    # Those that Pauling gives none: of the f block, and gases that form no compounds.
    missing = np.where(properties["group"] == 18, 3.0, 1.2)
    table["electronegativity"] = raw["en_pauling"].where(raw["en_pauling"].notna(), missing)
    return table


def _count_electrons(elements: Sequence[Any], amounts: NDArray[np.float64]) -> tuple[float, ...]:
    """The columns `VALENCE` of one composition: rows of `_valences`, and how much there is of each."""
    total, order = amounts.sum(), sorted(range(len(amounts)), key=lambda j: -elements[j].electronegativity)
    elements, amounts = [elements[j] for j in order], amounts[order]
    share, chi = amounts / total, np.array([e.electronegativity for e in elements])
    given = [[sorted(z for z in own if z > 0) or [0] for own in (e.common, e.known)] for e in elements]
    least, most = (amounts * [own[0][k] for own in given] for k in (0, -1))
    wanted = amounts * [e.anion for e in elements]
    anions = next((j for j, e in enumerate(elements) if e.anion == 0), len(elements) - 1)
    cuts = range(min(anions, len(elements) - 1) + 1)  # the first so many are anions
    left = [
        min(_balance(float(wanted[:cut].sum()), amounts[cut:], [own[k] for own in given[cut:]]) for cut in cuts)
        for k in (0, 1)
    ]
    ranges = [np.array([least[cut:].sum(), most[cut:].sum()]) + wanted[:cut].sum() for cut in cuts]
    low, high = min(ranges, key=_outside)
    ionic = 1.0 - np.exp(-0.25 * (chi[:, None] - chi) ** 2)
    return (
        _balance(0.0, amounts, [e.common for e in elements]) / total,
        _balance(0.0, amounts, [e.known for e in elements]) / total,
        left[0] / total, left[1] / total, low / total, high / total, _outside((low, high)) / total,
        (8.0 * amounts[0] if elements[0].anion else 0.0) / max((amounts * [e.outer for e in elements]).sum(), 1e-9),
        share[[e.anion != 0 for e in elements]].sum(),
        _odd(amounts, [e.electrons for e in elements]),
        ionic.max(), share @ ionic @ share, chi.max(), share @ chi, len(elements), float(np.linalg.norm(share)),
    )  # fmt: skip


def _balance(charge: float, amounts: NDArray[np.float64], states: Sequence[Iterable[int]]) -> float:
    """Smallest absolute value of a charge and those of the elements, each of which takes one of its states."""
    sums = {charge}
    for amount, own in zip(amounts.tolist(), states, strict=True):
        sums = {round(s + amount * z, 6) for s in sums for z in own}
    return min(map(abs, sums))


def _outside(interval: Sequence[float]) -> float:
    """Distance of zero from an interval."""
    return float(max(interval[0], -interval[1], 0.0))


def _odd(amounts: NDArray[np.float64], electrons: Sequence[int]) -> float:
    """Whether a formula unit has an odd number of electrons: 0 or 1, and 1/2 where its amounts are not whole."""
    for times in range(1, 13):
        whole = np.round(times * amounts)
        if np.allclose(times * amounts, whole, atol=1e-3):
            counts = whole.astype(int)
            return float(counts // np.gcd.reduce(counts) @ np.array(electrons) % 2)
    return 0.5


def _valence(configuration: str) -> dict[str, int]:
    """Electrons outside the noble-gas core, by shell; a full d or f shell below a p shell belongs to the core."""
    shells = [(int(n), shell, int(count or 1)) for n, shell, count in re.findall(r"(\d)([spdf])(\d*)", configuration)]
    outermost = max(n for n, _, _ in shells)
    own: dict[str, int] = {}
    for n, shell, count in shells:
        buried = count == SHELLS[shell] and shell in "df" and any(m == outermost and s == "p" for m, s, _ in shells)
        if not buried and (n == outermost or shell in "df"):
            own[shell] = own.get(shell, 0) + count
    return own


@cache
def _magpie_properties() -> pd.DataFrame:
    """Properties of the elements that the Magpie preset averages, indexed by symbol; from matminer."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from matminer.featurizers.composition import ElementProperty
            from pymatgen.core import Element

            preset = ElementProperty.from_preset("magpie", impute_nan=False)
            symbols = [Element.from_Z(z).symbol for z in range(1, 98)]
            values = {
                name: [preset.data_source.get_elemental_property(Element(symbol), name) for symbol in symbols]
                for name in preset.features
            }
    except ImportError as error:
        raise DataError("The Magpie preset needs matminer: pip install 'bayestl[magpie]'.") from error
    return pd.DataFrame(values, index=symbols).astype(float).fillna(0.0)


BY_NAME: dict[str, type[Features]] = {"formula": Compositions, "composition": Compositions, "smiles": Molecules}
