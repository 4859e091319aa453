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
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bayestl.errors import DataError, listed

STATISTICS = ("minimum", "maximum", "range", "mean", "deviation", "mode")


class Features(ABC):
    """A function from labels to numbers, one row for each label; the columns must not depend on the labels."""

    advice: ClassVar[str] = ""  # printed where a column is described without asking

    @abstractmethod
    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        """Describe the labels, in their order.

        Raises
        ------
        DataError
            Naming the labels that cannot be read.
        """

    def alike(self, labels: Sequence[Any]) -> list[list[Any]]:
        """Labels that are not the same thing, and of which the numbers are: groups of two or more."""
        return []

    def __add__(self, other: Features) -> Features:
        """The columns of both: ``Compositions() + Valences()``."""
        return Joined(self, other) if isinstance(other, Features) else NotImplemented


@dataclass(frozen=True)
class Joined(Features):
    """The columns of two: what ``a + b`` makes."""

    first: Features
    second: Features

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        return pd.concat([part(labels).reset_index(drop=True) for part in (self.first, self.second)], axis=1)

    def alike(self, labels: Sequence[Any]) -> list[list[Any]]:
        """Those of the first that are so for the second as well."""
        second = [set(group) for group in self.second.alike(labels)]
        return [group for group in self.first.alike(labels) if set(group) in second]


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

    advice = "Where metals and insulators are mixed, add Valences()."
    preset: str = "elements"

    def __post_init__(self) -> None:
        if self.preset not in ("elements", "magpie"):
            raise ValueError(f"`preset` must be 'elements' or 'magpie'; got {self.preset!r}.")

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        table = _element_properties() if self.preset == "elements" else _magpie_properties()
        amounts = fractions(labels, tuple(table.index))
        values = table.to_numpy(dtype=float)
        present = amounts > 0
        mean = csr_array(amounts) @ values  # row by row: the same to the last bit however many there are
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
    """Whether the electrons of a composition are accounted for, which tells insulators from metals: 15 columns, 2 families.

    *valence*, charges per atom to 0.001:

    * ``imbalance``: the least charge that is left when each element takes one of its common oxidation states;
      ``imbalance, any state``: one of all that are known, other than 0
    * ``left``: the same when the most electronegative elements are anions, as many as is best or none, and the others give
      electrons in a common state. Anions are elements of groups 14 to 17 and H, each with the charge that fills its shell
      (8 - N rule); the first other element, in the order of electronegativity, and all after it are cations.
      ``left, any state``: in any positive state
    * ``least left``, ``most left``: the ends of the interval of charges that is left when cations give their least and their
      most; ``outside``: how far zero is from it (mixed valence may lie within). Of the cuts the one with the least outside
    * ``shells to fill``: electrons that fill the shell of the most electronegative element, if it forms an anion, relative to the
      valence electrons of all (Pearson 1964, doi 10.1107/S0365110X64000019): 1 in a normal-valence compound of one anion
    * ``anions``: share of the elements that form anions

    *bond*: ``ionic, most`` and ``ionic, mean`` over pairs of atoms, ``1 - exp(-(difference of electronegativities)^2 / 4)``
    (Pauling 1960); ``electronegativity, greatest`` and ``mean``; ``elements``, how many; ``norm``, that of the atomic fractions.

    Oxidation states and Pauling's electronegativities are mendeleev's; where there are none, 1.2 stands for metals of the f
    block and 3 for noble gases. Platinum metals are more electronegative than P, As, Sb or Te, which so are no anions beside
    them. Made to be added: ``Compositions() + Valences()``.

    Examples
    --------
    >>> import bayestl as btl
    >>> btl.Valences()(["NaCl", "Fe3O4", "NiAl"])["valence: outside"].tolist()
    [0.0, 0.0, 2.5]
    """

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        elements = {str(row.Index): row for row in _valences().itertuples()}
        shares = fractions(labels, tuple(elements))
        symbols = np.array(list(elements))
        rows = [_count_electrons([elements[s] for s in symbols[own > 0]], own[own > 0]) for own in shares]
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
        # Written in one way: of another order of the atoms sums are rounded otherwise, as if it were another molecule.
        molecules = [molecule and Chem.MolFromSmiles(Chem.MolToSmiles(molecule)) for molecule in molecules]
        read = zip(labels, molecules, strict=True)
        if bad := [str(label) for label, molecule in read if molecule is None or not molecule.GetNumAtoms()]:
            raise DataError(f"These are not SMILES that RDKit can read: {listed(list(dict.fromkeys(bad)))}.")
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
            if not Chem.FindAllPathsOfLengthN(molecule, 3):  # a quotient by almost nothing: 9508 of tert-butanol
                row["physical: Kappa3"] = 0.0
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

    def alike(self, labels: Sequence[Any]) -> list[list[Any]]:
        """Stereoisomers."""
        from rdkit import Chem

        groups: dict[str, dict[str, Any]] = {}
        for label in dict.fromkeys(labels):
            if (molecule := Chem.MolFromSmiles(str(label))) is not None:
                flat, whole = (Chem.MolToSmiles(molecule, isomericSmiles=own) for own in (False, True))
                groups.setdefault(flat, {}).setdefault(whole, label)
        return [list(group.values()) for group in groups.values() if len(group) > 1]


_SURFACE = re.compile(r"\s*([A-Z][a-z]?)[\s(_-]*([\d-]+)\)?\s*")
COORDINATION = {"111": 9, "100": 8, "110": 7, "211": 7, "311": 7, "532": 6, "0001": 9, "10-10": 8}


@dataclass(frozen=True)
class Surfaces(Features):
    """Surfaces of elemental metals written as metal and facet: ``Pt(111)``, ``Pt 111`` or ``Pt111``.

    Of the metal: group, period, covalent radius, electronegativity, ionisation energy and the filling of its d shell. Of the
    facet: how many neighbours the least coordinated surface atom has (a close-packed crystal has 12), which orders
    terraces, steps and kinks. Facets with as many, (110), (211) and (311), are told alike; where the table holds several of a
    metal that is said, and a column of the facet beside this one (in ``inputs``) tells them apart. Of two columns make one:
    ``table["surface"] = table["metal"] + "(" + table["facet"].astype(str) + ")"``.

    Raises
    ------
    DataError
        Naming surfaces that cannot be read, and facets whose coordination number is not known.
    """

    def __call__(self, labels: Sequence[Any]) -> pd.DataFrame:
        found = [_SURFACE.fullmatch(str(label)) for label in labels]
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

    def alike(self, labels: Sequence[Any]) -> list[list[Any]]:
        """Facets of a metal with as many neighbours."""
        groups: dict[tuple[str, int], dict[str, Any]] = {}
        for label in labels:
            if (match := _SURFACE.fullmatch(str(label))) and match[2] in COORDINATION:
                groups.setdefault((match[1], COORDINATION[match[2]]), {}).setdefault(match[2], label)
        return [list(group.values()) for group in groups.values() if len(group) > 1]


# -- elements ---------------------------------------------------------------------------------------------------------


def fractions(labels: Sequence[Any], symbols: Sequence[str]) -> NDArray[np.float64]:
    """Atomic fractions (n, elements) of formulas; a `DataError` names those that cannot be read."""
    place = {symbol: j for j, symbol in enumerate(symbols)}
    out = np.zeros((len(labels), len(symbols)))
    bad: dict[str, str] = {}
    for i, label in enumerate(labels):
        try:
            for symbol, amount in parse_formula(str(label)).items():
                out[i, place[symbol]] = amount
            out[i] /= out[i].sum()
        except KeyError as error:
            bad[str(label)] = f"no properties of {error.args[0]}"
        except ValueError as error:
            bad[str(label)] = str(error)
    if bad:
        raise DataError(
            f"{len(bad)} formulas cannot be read: {listed([f'{label} ({why})' for label, why in bad.items()])}. "
            "Correct them or drop their rows."
        )
    return out


def describable(formulas: Iterable[str]) -> NDArray[np.bool_]:
    """Whether each of the formulas can be read and holds only elements that are described, H to Cf."""
    elements = set(_element_properties().index)

    def known(formula: str) -> bool:
        try:
            return parse_formula(formula).keys() <= elements
        except ValueError:
            return False

    return np.array([known(str(formula)) for formula in formulas], dtype=bool)


_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
_ADDED = re.compile(r"[·•∙⋅*]")
_HYDRATE = re.compile(r"(?<![·•∙⋅*])(?<![A-Za-z·•∙⋅*]0)\.(?=(?:\d*|\d*\.\d+)\(?H2O\)?$)")
_SPACED = re.compile(r"\s*([·•∙⋅*]|\.(?=\s))\s*")
_NUMBERED = r"\s+(?=(?:\d+\.?\d*|\.\d+)"
_TIMES = re.compile(rf"(?<=[\d)\]}}]){_NUMBERED}[A-Z(\[{{])|{_NUMBERED}H2O$)")
_TORN = re.compile(r"[\d.]\s+[\d.]")
_BLANK = re.compile(r"\s+(?![a-z])")
_SUBSCRIPTS = str.maketrans({"½": "0.5"} | {chr(0x2080 + digit): str(digit) for digit in range(10)})
_TOKEN = re.compile(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?|([(\[{])|([)\]}])(\d+\.?\d*|\.\d+)?")


def parse_formula(formula: str) -> dict[str, float]:
    """Amounts of the elements of a formula such as ``Ca(OH)2``, ``Ga0.5 As0.5`` or ``CuSO4·5H2O``.

    Blanks between elements and subscripts (``Fe₂O₃``, ``Fe 2 O 3``) are understood. What follows ``·``, ``*``, a point before
    ``H2O`` at the end, or after a number a blank before another (``CuSO4 5H2O``), is added as often as the number before it
    says; D is H.

    Raises
    ------
    ValueError
        Saying at which character the formula cannot be read.

    Examples
    --------
    >>> parse_formula("Ca3(PO4)2")
    {'Ca': 3.0, 'P': 2.0, 'O': 8.0}
    """
    text = _SPACED.sub(r"\1", formula.strip().translate(_SUBSCRIPTS))
    text = _HYDRATE.sub("·", _TIMES.sub("·", text), count=1)
    if _TORN.search(text):
        raise ValueError("a blank stands between two numbers")
    text = _BLANK.sub("", text)
    whole: dict[str, float] = {}
    for part in _ADDED.split(text):
        if not part and text:
            raise ValueError("nothing stands beside a dot")
        count = _NUMBER.match(part)
        times = float(count.group()) if count and part is not text else 1.0
        for symbol, amount in _amounts(part[count.end() :] if count and part is not text else part).items():
            whole[symbol] = whole.get(symbol, 0.0) + times * amount
    found = {symbol: amount for symbol, amount in whole.items() if amount > 0}
    if not found:
        raise ValueError("it holds no element")
    if max(found.values()) > 1e9:
        raise ValueError("an amount is beyond 1e9")
    return found


def _amounts(text: str) -> dict[str, float]:
    levels: list[dict[str, float]] = [{}]
    position, open_ = 0, ""
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"character {position + 1}, {text[position]!r}, is not understood")
        symbol, amount, opening, closing, times = match.groups()
        if symbol:
            symbol = "H" if symbol == "D" else symbol
            levels[-1][symbol] = levels[-1].get(symbol, 0.0) + float(amount or 1)
        elif opening:
            levels.append({})
            open_ += opening
        else:
            if open_[-1:] != {")": "(", "]": "[", "}": "{"}[closing]:
                raise ValueError(f"the bracket at character {position + 1} closes nothing")
            open_ = open_[:-1]
            for symbol, amount in levels.pop().items():
                levels[-1][symbol] = levels[-1].get(symbol, 0.0) + float(amount) * float(times or 1)
        position = match.end()
    if open_:
        raise ValueError("a bracket is not closed")
    return levels[0]


SHELLS = {"s": 2, "p": 6, "d": 10, "f": 14}


def _mendeleev(table: str) -> pd.DataFrame:
    """A table of mendeleev's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes of the dependency to its own developers
            from mendeleev.fetch import fetch_table

            return fetch_table(table)
    except ImportError as error:
        raise DataError("Properties of the elements need mendeleev: pip install 'bayestl[features]'.") from error


@cache
def _element_properties() -> pd.DataFrame:
    """Properties of the elements up to Cf, complete, indexed by symbol; from mendeleev (MIT)."""
    raw, energies = _mendeleev("elements").set_index("symbol").iloc[:98], _mendeleev("ionizationenergies")
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
    "valence: most left", "valence: outside", "valence: shells to fill", "valence: anions",
    "bond: ionic, most", "bond: ionic, mean", "bond: electronegativity, greatest", "bond: electronegativity, mean",
    "bond: elements", "bond: norm",
)  # fmt: skip


@cache
def _valences() -> pd.DataFrame:
    """What `_count_electrons` wants to know of the elements up to Cf, by symbol."""
    group, raw = _element_properties()["group"], _mendeleev("elements").set_index("symbol").iloc[:98]
    states = _mendeleev("oxidationstates").query("oxidation_state != 0")
    common, known = (
        own.groupby("atomic_number")["oxidation_state"].agg(set)
        for own in (states[states["category"] == "main"], states)
    )
    table = pd.DataFrame({"number": raw["atomic_number"]})
    table["common"], table["known"] = ([own.get(z, {0}) for z in table["number"]] for own in (common, known))
    few, many = ([{z for z in own if z > 0} for own in table[name]] for name in ("common", "known"))
    table["gives"] = [sorted(a or b or {0}) for a, b in zip(few, many, strict=True)]
    table["may_give"] = [sorted(a | b or {0}) for a, b in zip(few, many, strict=True)]
    table["anion"] = (group - 18).where(group.between(14, 17), 0.0)
    table["outer"] = group.where(group <= 10, group - 10)  # f block: 3
    table.loc["H", ["anion", "outer"]] = -1.0, 1.0
    table["shell"] = np.where(table["anion"] < 0, 8.0, 0.0)
    table.loc["H", "shell"] = 2.0
    table["electronegativity"] = raw["en_pauling"].fillna(pd.Series(np.where(group == 18, 3.0, 1.2), group.index))
    return table


def _count_electrons(elements: Sequence[Any], share: NDArray[np.float64]) -> tuple[float, ...]:
    """The columns `VALENCE` of one composition: rows of `_valences`, and the atomic fractions."""
    order = sorted(range(len(share)), key=lambda j: (-elements[j].electronegativity, elements[j].number))
    elements, share = [elements[j] for j in order], share[order]
    chi, wanted = (np.array([getattr(e, name) for e in elements]) for name in ("electronegativity", "anion"))
    anions = np.flatnonzero(np.r_[wanted[:-1], 0.0] == 0.0)[0]  # at most so many: one at least gives
    cuts = range(anions + 1)
    taken = [float(share[:cut] @ wanted[:cut]) for cut in cuts]
    left = [
        min(_balance(taken[cut], share[cut:], [getattr(e, states) for e in elements[cut:]]) for cut in cuts)
        for states in ("gives", "may_give")
    ]
    ends = [np.array([e.gives[0], e.gives[-1]]) for e in elements]
    intervals = [taken[cut] + share[cut:] @ ends[cut:] for cut in cuts]
    outside = [round(max(low, -high, 0.0), 3) for low, high in intervals]
    low, high = intervals[int(np.argmin(outside))]
    ionic = 1.0 - np.exp(-0.25 * (chi[:, None] - chi) ** 2)
    return (
        _balance(0.0, share, [e.common for e in elements]), _balance(0.0, share, [e.known for e in elements]),
        *left, low, high, min(outside), elements[0].shell * share[0] / (share @ [e.outer for e in elements]),
        share[wanted < 0].sum(), ionic.max(), share @ ionic @ share, chi.max(), share @ chi, len(elements),
        float(np.linalg.norm(share)),
    )  # fmt: skip


def _balance(charge: float, share: NDArray[np.float64], states: Sequence[Iterable[int]]) -> float:
    """Smallest absolute value of a charge and those of the elements, each of which takes one of its states, to 0.001.

    Sums are kept to 0.0001, so that there are never more than some tens of thousands.
    """
    sums = {charge}
    for amount, own in zip(share.tolist(), states, strict=True):
        sums = {round(s + amount * z, 4) for s in sums for z in own}
    return round(min(map(abs, sums)), 3)


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
