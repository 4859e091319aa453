"""Yields of reactions and stability of polymer blends, measured by robots and in high throughput."""

from __future__ import annotations

import pandas as pd

from bayestl.datasets.remote import read_table


def load_suzuki() -> pd.DataFrame:
    """Four Suzuki-Miyaura couplings in flow, optimised over one space of conditions.

    Returns
    -------
    pandas.DataFrame
        356 rows. ``case``: pair of substrates, "i" (89 rows), "ii" (91), "iii" (88) or "iv" (88); ``ligand`` ("L0" to
        "L7"), ``residence_time`` (s), ``temperature`` (degrees C), ``catalyst_loading`` (mol %); ``yield`` (%),
        ``turnover`` (turnover number).

    Notes
    -----
    Reizman, Wang, Buchwald and Jensen 2016 (doi 10.1039/C6RE00153J), as Olympus carries them (MIT). Conditions were chosen
    adaptively, so ligands differ much between cases: compare on held-out conditions, not on random rows alone. 15, 16,
    3 and 2 rows repeat the conditions of another.
    """
    names = ["ligand", "residence_time", "temperature", "catalyst_loading", "yield", "turnover"]
    parts = []
    for case in ("i", "ii", "iii", "iv"):
        part = read_table("suzuki-flow", f"suzuki_{case}.csv", header=None, names=names)
        part.insert(0, "case", case)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def load_opv() -> pd.DataFrame:
    """Photodegradation of two blends for organic solar cells, each of four components, on one design.

    Returns
    -------
    pandas.DataFrame
        1040 rows. ``mat_1`` to ``mat_4``: fractions, sum 1; ``degradation_pce10``, ``degradation_wf3`` (no unit, less is
        better): of the blends that hold the polymer PCE10 and WF3.

    Notes
    -----
    Langner et al. 2020 (doi 10.1002/adma.201907801), as Olympus carries it (MIT). 20 designs are repeated. The 65 designs
    with ``mat_2`` = 0 hold neither polymer and have the same value in both columns: they are one measurement, so leave
    them out of test sets, ``table[table["mat_2"] > 0]``. (That the polymer is mat_2 follows from this; the description in
    Olympus says mat_1.)
    """
    materials = ["mat_1", "mat_2", "mat_3", "mat_4"]
    pce10, wf3 = (
        read_table(
            "opv-photodegradation", f"photo_{blend}.csv", header=None, names=[*materials, f"degradation_{blend}"]
        )
        for blend in ("pce10", "wf3")
    )
    # Row by row the same design: repeats forbid a join on it.
    return pce10.assign(degradation_wf3=wf3["degradation_wf3"])


def load_buchwald_hartwig() -> pd.DataFrame:
    """Yields of Buchwald-Hartwig aminations of 15 aryl halides, in the presence of isoxazole additives.

    Returns
    -------
    pandas.DataFrame
        4599 rows. ``plate``, ``row``, ``col``; ``base``, ``base_cas``, ``base_smiles``; ``ligand``, ``ligand_cas``,
        ``ligand_smiles``; ``aryl_halide_number`` (Int64), ``aryl_halide``, ``aryl_halide_smiles``; ``additive_number``
        (Int64), ``additive``, ``additive_smiles``; ``product_smiles``; ``yield`` (%).

    Notes
    -----
    Ahneman et al. 2018 (doi 10.1126/science.aar5169), as BayBE carries it (Apache-2.0). Controls are kept: 287 rows have no
    halide (and no product), 192 no additive, 12 neither; drop them with ``dropna(subset=["aryl_halide", "additive"])``,
    which leaves 4132 rows, 274 to 276 for each halide over 3 bases, 4 ligands and 23 additives. As tasks, halides
    correlate from 0.08 to 0.95: some sources harm.
    """
    table = read_table("buchwald-hartwig", "data.csv")
    table = table.rename(columns={"base_cas_number": "base_cas", "ligand_cas_number": "ligand_cas"})
    return table.astype({"aryl_halide_number": "Int64", "additive_number": "Int64"})


def load_direct_arylation() -> pd.DataFrame:
    """Yields of a direct arylation over a full factorial design of conditions.

    Returns
    -------
    pandas.DataFrame
        1728 rows = 4 x 12 x 4 x 3 x 3. ``base``, ``ligand``, ``solvent``, each also as ``*_smiles``; ``concentration``
        (M), ``temperature`` (degrees C); ``yield`` (%).

    Notes
    -----
    Shields et al. 2021 (doi 10.1038/s41586-021-03213-y), as BayBE carries it (Apache-2.0). The first column of the file,
    which begins with a byte-order mark, counts the rows and is left out. Names are as published ("Butyornitrile").
    """
    columns = {
        "Base": "base",
        "Ligand": "ligand",
        "Solvent": "solvent",
        "Base_SMILES": "base_smiles",
        "Ligand_SMILES": "ligand_smiles",
        "Solvent_SMILES": "solvent_smiles",
        "Concentration": "concentration",
        "Temp_C": "temperature",
        "yield": "yield",
    }
    return read_table("direct-arylation", "data.csv", columns)
