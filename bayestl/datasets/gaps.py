"""Band gaps of inorganic solids: computed at several levels of theory, and measured."""

from __future__ import annotations

import gzip
import json

import pandas as pd

from bayestl.datasets.remote import fetch, read_table
from bayestl.errors import DataError

BORLIDO_COLUMNS = (
    "formula", "mp_id", "icsd_id", "gap_lda", "gap_lda_soc", "gap_pbe", "gap_pbe_soc", "gap_pbesol", "gap_hle16",
    "gap_hle16_soc", "gap_bj", "gap_mbj", "gap_scan", "gap_hse06", "gap_hse14", "gap_hse06_mix", "gap_pbe0",
    "gap_pbe0_mix", "gap_experiment", "experiment_doi",
)  # fmt: skip


def load_borlido_gaps() -> pd.DataFrame:
    """Gaps of 472 solids with fifteen functionals and by experiment, fully paired.

    Returns
    -------
    pandas.DataFrame
        472 rows. ``formula``, ``mp_id``, ``icsd_id``; gaps in eV: ``gap_lda``, ``gap_lda_soc``, ``gap_pbe``,
        ``gap_pbe_soc``, ``gap_pbesol``, ``gap_hle16``, ``gap_hle16_soc``, ``gap_bj``, ``gap_mbj``, ``gap_scan``,
        ``gap_hse06``, ``gap_hse14``, ``gap_hse06_mix``, ``gap_pbe0``, ``gap_pbe0_mix`` and ``gap_experiment``;
        ``experiment_doi`` (missing in 136 rows, whose values are of the Madelung handbook).

    Notes
    -----
    Borlido et al. 2019 (doi 10.1021/acs.jctc.9b00322), its supporting information: the publisher's terms apply, no
    licence is stated. 16 formulas occur for several polymorphs, so `formula` is not unique; `mp_id` is. One value of each
    of LDA, LDA+SOC, BJ and MBJ is missing. Eleven measured gaps are above 10 eV, mostly fluorides and noble gases.

    Raises
    ------
    DataError
        When openpyxl is not installed: ``pip install 'bayestl[data]'``.
    """
    path = fetch("borlido-2019-gaps", "ct9b00322_si_002.xlsx")
    try:
        table = pd.read_excel(
            path, header=None, skiprows=2, names=list(BORLIDO_COLUMNS), keep_default_na=False, na_values=[""]
        )
    except ImportError as error:
        raise DataError("The gaps of Borlido et al. need openpyxl: pip install 'bayestl[data]'.") from error
    return table


def load_hse_pbe_gaps() -> pd.DataFrame:
    """Gaps and formation energies of binary and ternary solids with PBE and HSE, and measured formation energies.

    Returns
    -------
    pandas.DataFrame
        1134 rows. ``formula``, ``space_group``, ``n_atoms`` (per cell), ``n_elements``; ``gap_pbe``, ``gap_hse`` in eV
        and ``gap_type_pbe``, ``gap_type_hse`` ("Direct", "Indirect", missing where there is no gap); in eV/atom
        ``e_form_pbe``, ``e_form_hse`` with fitted elemental references, ``e_form_pbe_unfitted``, ``e_form_hse_unfitted``
        without, and ``e_form_experiment`` (544 rows); ``data_id``.

    Notes
    -----
    Phys. Rev. Materials 8, 043803 (2024) (doi 10.1103/PhysRevMaterials.8.043803). No licence is stated. The strings "None"
    and "N.A." are read as missing. 157 compositions occur as several polymorphs. 72 % of the PBE gaps are zero; solid He
    and Ne have gaps of 11 to 21 eV.
    """
    columns = {
        "Compound": "formula",
        "Spacegroup": "space_group",
        "natoms": "n_atoms",
        "ntypes": "n_elements",
        "PBE Bandgap": "gap_pbe",
        "HSE Bandgap": "gap_hse",
        "PBE Bandgap Type": "gap_type_pbe",
        "HSE Bandgap Type": "gap_type_hse",
        "PBE Formation Energy (fit=standard)": "e_form_pbe",
        "HSE Formation Energy (fit=standard)": "e_form_hse",
        "PBE Formation Energy (fit=nothing)": "e_form_pbe_unfitted",
        "HSE Formation Energy (fit=nothing)": "e_form_hse_unfitted",
        "Exp FE": "e_form_experiment",
        "Data ID": "data_id",
    }
    return read_table("hse-pbe-exp-2024", "to_publish_HSE_full_data.csv", columns, missing=("None", "N.A."))


def load_experimental_gaps() -> pd.DataFrame:
    """Measured gaps of inorganic solids, by formula.

    Returns
    -------
    pandas.DataFrame
        6354 rows. ``formula``; ``gap_experiment`` in eV, 0 for metals (39 %).

    Notes
    -----
    Zhuo, Mansouri Tehrani and Brgoch 2018 (doi 10.1021/acs.jpclett.8b00124), distributed by matminer. No licence is
    stated. Kept as published: 465 compositions occur more than once (168 rows are exact repeats), 133 of them spread by
    more than 0.3 eV, so group by composition when splitting; and one formula is unreadable, "GaAs0.1P0.9G1128", of which
    the "G1128" is no element. `load_kingsbury_gaps` is nearly a copy of this set: never use one to test the other.
    """
    columns = {"formula": "formula", "gap expt": "gap_experiment"}
    return read_table("expt-gap", "expt_gap.csv", columns)


def load_kingsbury_gaps() -> pd.DataFrame:
    """Measured gaps of inorganic solids with Materials Project ids; the set of Matbench's ``matbench_expt_gap``.

    Returns
    -------
    pandas.DataFrame
        4604 rows in the order of the file. ``formula``; ``gap_experiment`` in eV, 0 for metals (53 %); ``mp_id``, the
        likely one (2481 rows).

    Notes
    -----
    Zhuo et al. 2018 (doi 10.1021/acs.jpclett.8b00124), one row a formula, ids by R. Kingsbury; Matbench: Dunn et al. 2020
    (doi 10.1038/s41524-020-00406-3). No licence is stated. The rows are not sorted and none is dropped, since the official
    folds are ``KFold(5, shuffle=True, random_state=18012019)`` over them in this order. It shares 4600 compositions with
    `load_experimental_gaps`.
    """
    columns = {"formula": "formula", "expt_gap": "gap_experiment", "likely_mpid": "mp_id"}
    return read_table("expt-gap", "expt_gap_kingsbury.csv", columns)


def load_materials_project_gaps() -> pd.DataFrame:
    """PBE gaps of the Materials Project, by formula; the set of Matbench's ``matbench_mp_gap``.

    Returns
    -------
    pandas.DataFrame
        106113 rows. ``formula`` (of the cell, not reduced: "K4Mn4O8"); ``gap_pbe`` in eV.

    Notes
    -----
    Dunn et al. 2020 (doi 10.1038/s41524-020-00406-3), as CrabNet carries it (MIT); Wang et al. 2021 (doi
    10.1038/s41524-021-00545-1). 43 % are zero. No structures and no ids, so the polymorphs of 11788 compositions cannot be
    told apart, and those of 3885 spread by more than 0.3 eV. Reduce formulas before joining to other sets.
    """
    return read_table("computed-gaps", "matbench_mp_gap.csv", {"formula": "formula", "target": "gap_pbe"})


def load_aflow_gaps() -> pd.DataFrame:
    """PBE gaps of AFLOW, by formula.

    Returns
    -------
    pandas.DataFrame
        27577 rows. ``formula`` (reduced, elements in alphabetic order: "Br3Cu1K2"); ``gap_pbe`` in eV; ``part``: "train",
        "val" or "test", as published.

    Notes
    -----
    Clement, Kauwe and Sparks 2020, benchmark sets of AFLOW, as CrabNet carries them (MIT); Wang et al. 2021 (doi
    10.1038/s41524-021-00545-1). 50 % are zero. Five compositions occur twice.
    """
    columns = {"formula": "formula", "target": "gap_pbe"}
    parts = [
        read_table("computed-gaps", f"aflow_Egap_{part}.csv", columns).assign(part=part)
        for part in ("train", "val", "test")
    ]
    return pd.concat(parts, ignore_index=True)


def load_megnet_gaps() -> pd.DataFrame:
    """Gaps at four levels of theory and measured, by database id, without formulas.

    Returns
    -------
    pandas.DataFrame
        64121 rows, one a fidelity and material. ``fidelity``: "pbe" (52348 rows), "hse" (6030), "gllb-sc" (2290), "scan"
        (472), "ordered_exp" (2703) or "disordered_exp" (278); ``material_id``: of the Materials Project ("mp-..."), but of
        the ICSD ("icsd-...") for the measured ones; ``gap`` in eV.

    Notes
    -----
    Chen et al. 2021 (doi 10.1038/s43588-020-00002-x), BSD-3-Clause. The two kinds of id do not join: experiment meets
    theory only in `load_megnet_pairs`, or by way of the `mp_id` of `load_kingsbury_gaps` and `load_borlido_gaps`. The SCAN
    values are those of Borlido et al., all 472.
    """
    with gzip.open(fetch("megnet-multifidelity-gaps", "data_no_structs.json.gz"), "rt", encoding="utf-8") as file:
        gaps: dict[str, dict[str, float]] = json.load(file)
    rows = [(fidelity, id_, float(gap)) for fidelity, own in gaps.items() for id_, gap in own.items()]
    return pd.DataFrame(rows, columns=["fidelity", "material_id", "gap"])


def load_megnet_pairs() -> pd.DataFrame:
    """Gaps at four levels of theory and measured, side by side, without anything that says of which material.

    Returns
    -------
    pandas.DataFrame
        54105 rows. ``gap_pbe``, ``gap_gllb_sc``, ``gap_scan``, ``gap_hse``, ``gap_experiment`` in eV, else missing.

    Notes
    -----
    Chen et al. 2021 (doi 10.1038/s43588-020-00002-x), BSD-3-Clause; the same values as in `load_megnet_gaps`, without the
    disordered. Experiment meets PBE in 1803 rows, HSE in 336, GLLB-SC in 284 and SCAN in 280.
    """
    levels = {"PBE": "gap_pbe", "GLLB-SC": "gap_gllb_sc", "SCAN": "gap_scan", "HSE": "gap_hse", "Exp": "gap_experiment"}
    columns = {rf"$E_{{\mathregular{{g}}}}^{{\mathregular{{{level}}}}}$ (eV)": own for level, own in levels.items()}
    return read_table("megnet-multifidelity-gaps", "all_datapairs.csv", columns)
