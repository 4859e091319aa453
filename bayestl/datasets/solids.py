"""Formation energies, and properties computed in high throughput, of inorganic solids."""

from __future__ import annotations

import pandas as pd

from bayestl.datasets.remote import read_table
from bayestl.errors import DataError

# name here -> (stem of the two files, column)
JARVIS = {
    "gap_optb88vdw": ("optb88vdw_bandgap", "optb88vdw_bandgap"),
    "gap_mbj": ("mbj_bandgap", "mbj_bandgap"),
    "e_form_optb88vdw": ("deltae", "formation_energy_peratom"),
    "e_form_experiment": ("expt_deltae", "delta_e"),
    "dielectric_optb88vdw": ("eps", "eps_average_sq"),
    "dielectric_mbj": ("meps", "meps_average_sq"),
    "bulk_modulus": ("bulkmoduluskv", "bulk_modulus_kv"),
    "shear_modulus": ("shearmodulusgv", "shear_modulus_gv"),
    "slme": ("slme", "slme"),
}


def load_jarvis(property: str) -> pd.DataFrame:
    """One property of solids, computed with JARVIS-DFT (or, of one, measured), by formula.

    Parameters
    ----------
    property : str
        One of (rows, unit): "gap_optb88vdw" (28155, eV), "gap_mbj" (7296, eV), "e_form_optb88vdw" (28108, eV/atom),
        "e_form_experiment" (1643, eV/atom), "dielectric_optb88vdw" (25150, no unit), "dielectric_mbj" (11349, no unit),
        "bulk_modulus" (10743, GPa), "shear_modulus" (10209, GPa), "slme" (3006, %, spectroscopic limited maximum
        efficiency).

    Returns
    -------
    pandas.DataFrame
        ``formula``; a column with the name of the property; ``part``: "training" or "test", as published.

    Notes
    -----
    Gupta et al. 2021 (doi 10.1038/s41467-021-26921-5) and JARVIS, Choudhary et al. 2020 (doi 10.1038/s41524-020-00440-1);
    the notice of Northwestern University allows use and redistribution with the notice. The measured formation energies
    are from matminer. A spreadsheet had turned three formulas into dates; "2-Feb" (in both mbj sets) is read as FeB2 and
    "3-Feb" (in dielectric_mbj) as FeB3, the only formulas that become these. There are no ids, so polymorphs of one formula
    cannot be told apart; some have equal values (zero gaps mostly), and some stand on both sides of the published split.
    All are kept; group by composition when splitting anew.
    """
    if property not in JARVIS:
        raise DataError(f"There is no property {property!r}; there are {', '.join(JARVIS)}.")
    stem, column = JARVIS[property]
    columns = {"pretty_comp": "formula", column: property}
    parts = [
        read_table("jarvis-cross-property", f"{stem}_{part}_set.csv", columns).assign(part=part)
        for part in ("training", "test")
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(formula=table["formula"].replace({"2-Feb": "FeB2", "3-Feb": "FeB3"}))


def load_formation_enthalpies() -> pd.DataFrame:
    """Formation enthalpies measured by calorimetry, most of intermetallics, beside those of two databases of DFT.

    Returns
    -------
    pandas.DataFrame
        1276 rows. ``formula``, ``pearson_symbol``, ``space_group``, ``mp_id``, ``oqmd_id`` (Int64); in eV/atom
        ``e_form_experiment`` (1196 rows), ``e_form_mp`` (701) and ``e_form_oqmd`` (746), else missing; all three in 601.

    Notes
    -----
    Kim, Meschel, Nash and Chen 2017 (doi 10.1038/sdata.2017.162), distributed by matminer. No licence is stated. Kept as
    published: 108 rows repeat a composition, 7 of them wholly. 1135 rows of `load_kingsbury_enthalpies` come from here.
    """
    columns = {
        "formula": "formula",
        "pearson symbol": "pearson_symbol",
        "space group": "space_group",
        "mpid": "mp_id",
        "oqmdid": "oqmd_id",
        "e_form expt": "e_form_experiment",
        "e_form mp": "e_form_mp",
        "e_form oqmd": "e_form_oqmd",
    }
    return read_table("formation-enthalpy", "expt_formation_enthalpy.csv", columns).astype({"oqmd_id": "Int64"})


def load_kingsbury_enthalpies() -> pd.DataFrame:
    """Measured formation enthalpies, most with the reported uncertainty; one row a formula.

    Returns
    -------
    pandas.DataFrame
        2135 rows. ``formula``; in eV/atom ``e_form_experiment`` and ``uncertainty`` (1834 rows, else missing);
        ``phase``, as the references put it; ``reference``; ``mp_id``, the likely one (1580 rows).

    Notes
    -----
    Wang et al. 2021 (doi 10.1038/s41598-021-94550-5), distributed by matminer. No licence is stated. Five uncertainties
    are zero, kept as published: they are not reported rather than nil, so do not use them as known errors. 1135 rows are
    those of Kim et al., that is of `load_formation_enthalpies`: never use one set to test the other.
    """
    columns = {
        "formula": "formula",
        "expt_form_e": "e_form_experiment",
        "uncertainty": "uncertainty",
        "phaseinfo": "phase",
        "reference": "reference",
        "likely_mpid": "mp_id",
    }
    return read_table("formation-enthalpy", "expt_formation_enthalpy_kingsbury.csv", columns)
