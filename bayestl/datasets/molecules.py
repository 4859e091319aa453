"""Covalent organic frameworks and small molecules: cheap computation beside dear computation or experiment."""

from __future__ import annotations

import csv

import pandas as pd

from bayestl.datasets.remote import fetch, read_table


def load_cofs() -> pd.DataFrame:
    """Xe/Kr selectivity of 609 covalent organic frameworks, by Henry coefficients and by mixture simulation (GCMC).

    Returns
    -------
    pandas.DataFrame
        609 rows, indexed by ``cof``. Descriptors: ``pore_diameter`` (angstrom), ``void_fraction``, ``surface_area``
        (m2/g), ``density`` (kg/m3), and atoms per cubic angstrom ``carbon``, ``hydrogen``, ``oxygen``, ``nitrogen``,
        ``silicon``, ``sulfur``, ``boron``, ``phosphorus``, ``halogens``, ``metals``. Then, each for ``henry`` and
        ``gcmc``: ``henry_selectivity`` (no unit), ``henry_error`` (its standard error), ``henry_minutes`` (what it took).

    Notes
    -----
    Gantzler, Deshwal, Doppa and Simon 2023, Digital Discovery 2, 1937 (ChemRxiv 64970d6a4821a835f355c8b9); 298 K, 1 bar, a
    mixture of 20 % Xe and 80 % Kr, UFF. No licence is stated. Both files hold a row for each gas, of which the selectivity
    is the same; the minutes of Henry are the sum over the two gases, which are separate runs, those of GCMC are of the
    one run of the mixture. Three COFs that have descriptors but were not simulated are left out. Four have no finite GCMC
    selectivity ("NaN": nothing was adsorbed) and are kept, missing; their Henry selectivities go down to 1e-54, so take
    logarithms with care. The two agree to 0.03 below a selectivity of 5: only the upper tail is a test.
    """
    elements = (
        "Carbon", "Hydrogen", "Oxygen", "Nitrogen", "Silicon", "Sulfur", "Boron", "Phosphorus", "Halogens", "Metals",
    )  # fmt: skip
    columns = {
        "crystal_name": "cof",
        "pore_diameter_Å": "pore_diameter",
        "void_fraction": "void_fraction",
        "surface_area_m²g⁻¹": "surface_area",
        "crystal_density": "density",
    } | {f"density_of_{element}": element.lower() for element in elements}
    table = read_table("cof-xe-kr", "cof_descriptors.csv", columns).set_index("cof")
    for method, of_gases in (("henry", "sum"), ("gcmc", "first")):
        selectivity, error, minutes = f"{method}_selectivity", f"{method}_error", f"{method}_minutes"
        columns = {
            "xtal": "cof",
            "selectivity Xe/Kr": selectivity,
            "err selectivity Xe/Kr": error,
            "elapsed time (min)": minutes,
        }
        runs = read_table("cof-xe-kr", f"{method}_calculations.csv", columns, missing=("NaN",)).groupby("cof")
        table = table.join(runs.agg({selectivity: "first", error: "first", minutes: of_gases}), how="inner")
    return table


def load_freesolv() -> pd.DataFrame:
    """Hydration free energies of small neutral molecules, measured and computed by alchemical simulation.

    Returns
    -------
    pandas.DataFrame
        642 rows. ``compound_id``, ``smiles``, ``name``; in kcal/mol ``experiment``, ``experiment_error``, ``gaff``,
        ``gaff_error``; ``experiment_reference``, ``gaff_reference``, ``notes``; ``groups``: functional groups, joined by
        "; " (missing for 36 alkanes, ammonia and hydrogen sulfide).

    Notes
    -----
    Mobley and Guthrie 2014 (doi 10.1007/s10822-014-9747-x), Duarte Ramos Matos et al. 2017 (doi 10.1021/acs.jced.7b00104);
    version 0.52. No licence is stated at this commit. Of the errors of experiments most are defaults (0.6 kcal/mol in 459
    rows; the notes say so), not measured. The "#" of a triple bond is no comment. No repeats.
    """
    names = [
        "compound_id", "smiles", "name", "experiment", "experiment_error", "gaff", "gaff_error", "experiment_reference",
        "gaff_reference", "notes",
    ]  # fmt: skip
    table = read_table(
        "freesolv", "database.txt", sep=";", header=None, names=names, skiprows=3, skipinitialspace=True,
        quoting=csv.QUOTE_NONE,
    )  # fmt: skip
    table["notes"] = table["notes"].str.strip()
    lines = fetch("freesolv", "groups.txt").read_text(encoding="utf-8").splitlines()[1:]
    groups = {compound: own.strip() or None for compound, _, own in (line.split(";", 2) for line in lines)}
    return table.assign(groups=table["compound_id"].map(groups))
