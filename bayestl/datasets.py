"""Real tables that ride in on ordinary dependencies, so that nothing need be downloaded."""

from __future__ import annotations

import warnings

import pandas as pd

from bayestl.errors import DataError

ELEMENT_DESCRIPTORS = (
    "period",
    "pettifor_number",
    "covalent_radius_cordero",
    "dipole_polarizability",
    "en_ghosh",
)


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
            from mendeleev.fetch import fetch_table

            elements = fetch_table("elements").set_index("symbol")
    except ImportError as error:
        raise DataError("The bulk moduli need ase and mendeleev: pip install 'bayestl[demo]'.") from error
    symbols = list(dcdft.names)
    moduli = pd.DataFrame({symbol: dcdft.data[symbol] for symbol in symbols}).T
    table = elements.loc[symbols, list(ELEMENT_DESCRIPTORS)].astype(float)
    table.insert(0, "B_wien2k", moduli["wien2k_B"])
    table.insert(1, "B_exp", moduli["exp_B"])
    return table.rename_axis("element")
