"""Elastic constants and strength: of MAX phases, of multi-principal-element alloys, of steels."""

from __future__ import annotations

import pandas as pd

from bayestl.datasets.remote import read_table


def load_m2ax() -> pd.DataFrame:
    """Elastic constants of M2AX phases, computed.

    Returns
    -------
    pandas.DataFrame
        223 rows, complete. ``formula``; lattice parameters ``a``, ``c`` and bond lengths ``d_mx``, ``d_ma`` in angstrom;
        in GPa ``c11``, ``c12``, ``c13``, ``c33``, ``c44``, ``bulk_modulus``, ``shear_modulus`` and ``elastic_modulus``.

    Notes
    -----
    Cover, Warschkow, Bilek and McKenzie 2009 (doi 10.1088/0953-8984/21/30/305403), PW91, distributed by matminer. No
    licence is stated. Moduli are rounded to 1 GPa, and E = 9 K G / (3 K + G) within that rounding (to 2 GPa): the elastic
    modulus is a function of two other columns, so never a source task for them. V2CdC has a c12 of zero, as published.
    """
    columns = {name: name for name in ("formula", "a", "c", "d_mx", "d_ma", "c11", "c12", "c13", "c33", "c44")} | {
        "bulk modulus": "bulk_modulus",
        "shear modulus": "shear_modulus",
        "elastic modulus": "elastic_modulus",
    }
    return read_table("m2ax-elastic", "m2ax.csv", columns)


def load_mpea() -> pd.DataFrame:
    """Mechanical properties of multi-principal-element alloys, measured.

    Returns
    -------
    pandas.DataFrame
        1545 rows. ``formula`` ("Al0.25 Co1 Fe1 Ni1"), ``microstructure``, ``processing``, ``phase`` ("BCC", "FCC",
        "other"), ``grain_size`` (um), ``density`` and ``density_calculated`` (g/cm3), ``hardness`` (HV, 530 rows),
        ``test`` ("C" compression, "T" tension), ``temperature`` of the test (degrees C), ``yield_strength`` (MPa, 1067),
        ``tensile_strength`` (MPa, 539), ``elongation`` (%, 619), ``elongation_plastic`` (%), ``young_modulus`` and
        ``young_modulus_calculated`` (GPa), ``oxygen``, ``nitrogen``, ``carbon`` (ppm by weight), ``reference_id``,
        ``doi``, ``year``, ``title``. All but formula, phase, density_calculated, reference_id, doi and year
        may be missing.

    Notes
    -----
    Borg et al. 2020 (doi 10.1038/s41597-020-00768-9), Apache-2.0. Kept as published: 20 rows are exact repeats, 391 repeat
    a formula, temperature, test and processing; group by formula (or reference) when splitting. Strength falls with
    temperature and differs between tension and compression, so take both in, as inputs or as tasks.
    """
    columns = {
        "FORMULA": "formula",
        "PROPERTY: Microstructure": "microstructure",
        "PROPERTY: Processing method": "processing",
        "PROPERTY: BCC/FCC/other": "phase",
        r"PROPERTY: grain size ($\mu$m)": "grain_size",
        "PROPERTY: Exp. Density (g/cm$^3$)": "density",
        "PROPERTY: Calculated Density (g/cm$^3$)": "density_calculated",
        "PROPERTY: HV": "hardness",
        "PROPERTY: Type of test": "test",
        r"PROPERTY: Test temperature ($^\circ$C)": "temperature",
        "PROPERTY: YS (MPa)": "yield_strength",
        "PROPERTY: UTS (MPa)": "tensile_strength",
        "PROPERTY: Elongation (%)": "elongation",
        "PROPERTY: Elongation plastic (%)": "elongation_plastic",
        "PROPERTY: Exp. Young modulus (GPa)": "young_modulus",
        "PROPERTY: Calculated Young modulus (GPa)": "young_modulus_calculated",
        "PROPERTY: O content (wppm)": "oxygen",
        "PROPERTY: N content (wppm)": "nitrogen",
        "PROPERTY: C content (wppm)": "carbon",
        "IDENTIFIER: Reference ID": "reference_id",
        "REFERENCE: doi": "doi",
        "REFERENCE: year": "year",
        "REFERENCE: title": "title",
    }
    return read_table("mpea", "MPEA_dataset.csv", columns)


def load_steel_strength() -> pd.DataFrame:
    """Strength and elongation of high-alloy steels, measured.

    Returns
    -------
    pandas.DataFrame
        312 rows. ``formula`` (atomic fractions); contents in % by weight ``c``, ``mn``, ``si``, ``cr``, ``ni``, ``mo``,
        ``v``, ``n``, ``nb``, ``co``, ``w``, ``al``, ``ti`` (the rest is iron); ``yield_strength`` and ``tensile_strength``
        in MPa; ``elongation`` in % (303 rows, else missing).

    Notes
    -----
    Citrine Informatics, "Mechanical properties of some steels", Citrination dataset 153092, distributed by matminer and as
    ``matbench_steels``. No licence is stated. All formulas are distinct, yet many steels differ little. All are strong
    (yield above 1005 MPa): it says nothing of ordinary steels.
    """
    elements = ("c", "mn", "si", "cr", "ni", "mo", "v", "n", "nb", "co", "w", "al", "ti")
    columns = {name: name for name in ("formula", *elements)} | {
        "yield strength": "yield_strength",
        "tensile strength": "tensile_strength",
        "elongation": "elongation",
    }
    return read_table("steel-strength", "steel_strength.csv", columns)
