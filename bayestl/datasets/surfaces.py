"""Energies of elementary steps and adsorbates on metal surfaces, computed with DFT."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing

import numpy as np
import pandas as pd

from bayestl.datasets.remote import fetch, read_table
from bayestl.errors import DataError

CATMAP_STUDIES = ("co_hydrogenation", "co_oxidation", "co_reduction", "methanol_synthesis")
NO_REFERENCE = "Topics in Catalysis (2014) 57 1-4 pp 80-88"
# (reactant, second product) -> name of the step
NO_STEPS = {
    ("N2", "N*"): "n2_gas",
    ("NO*", "O*"): "no_adsorbed",
    ("NO", "O*"): "no_gas",
    ("O2", "O*"): "o2_gas",
    ("O2*", "O*"): "o2_adsorbed",
    ("NO*", "*"): "no_desorption",
}


def load_catapp() -> pd.DataFrame:
    """Reaction and activation energies of elementary steps AB -> A + B on surfaces, from CatApp.

    Returns
    -------
    pandas.DataFrame
        3567 rows. ``surface``, ``termination`` (text: "211", "0001step"), ``reactant``, ``product_a``, ``product_b``
        (an asterisk marks what is adsorbed or, alone, a free site); ``reaction_energy`` and ``activation_energy`` in eV,
        the latter missing in 2564 rows; ``trivial``: whether the activation energy equals the reaction energy or is zero
        (bool, False where it is missing); ``reference``, ``url``, ``method`` (code and functional).

    Notes
    -----
    Hummelshoj et al. 2012 (doi 10.1002/anie.201107947), and the articles that ``reference`` names. No licence is stated.
    Of the 1003 activation energies 189 are trivial (the reaction energy itself, or 0): barriers that were not computed,
    to be dropped in a model of barriers, ``table[~table["trivial"]]``. 581 rows repeat a step of a surface and reference,
    with other energies (other sites). Methods differ by reference (DACAPO/RPBE, PW91, BEEF-vdW ...); where one names BEP
    (101 rows), barriers were estimated from reaction energies by a Broensted-Evans-Polanyi relation. Barriers relative to
    the gas phase can be negative, and four that are not trivial lie below the reaction energy, by up to 0.3 eV.
    """
    query = """
        SELECT c2Surface AS surface, c3Termination AS termination, c4AB AS reactant, c5A AS product_a, c6B AS product_b,
            CAST(c0Reaction_Energy AS REAL) AS reaction_energy,
            CAST(NULLIF(c1Activation_Energy, '') AS REAL) AS activation_energy,
            c7Reference AS reference, NULLIF(c8Url, 'none') AS url, c9Source AS method
        FROM CatApp_content ORDER BY docid
    """
    # Read-only and immutable: SQLite writes nothing beside a file of the cache.
    address = f"{fetch('catapp', 'catapp.db').absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(address, uri=True)) as connection:
        table = pd.read_sql(query, connection)
    barrier = table["activation_energy"]
    table.insert(7, "trivial", (barrier == table["reaction_energy"]) | (barrier == 0))
    return table


def load_no_steps() -> pd.DataFrame:
    """Steps of the decomposition of NO on ten metals, five terminations each, as a wide table.

    Returns
    -------
    pandas.DataFrame
        50 rows, indexed by (metal, termination). Activation energies in eV, else missing: ``ea_n2_gas`` (N2 -> 2 N*, 48
        rows), ``ea_no_adsorbed`` (NO* -> N* + O*, 46), ``ea_no_gas`` (NO -> N* + O*, 46), ``ea_o2_gas`` (O2 -> 2 O*, 24),
        ``ea_o2_adsorbed`` (O2* -> 2 O*, 6). Reaction energies in eV of the same steps, ``er_*``, and
        ``er_no_desorption`` (NO* -> NO + *, 49).

    Notes
    -----
    Falsig et al. 2014 (doi 10.1007/s11244-013-0164-5), DACAPO/RPBE, from CatApp (`load_catapp`). No licence is stated.
    Ag, Au, Co, Cu, Ni, Pd, Pt, Re, Rh, Ru; 110, 111, 211, 311, 532. The desorption of NO has barriers of 0, which are
    trivial and left out.

    Some columns follow from others exactly, so that one of them given as a source gives the other away:

    - ea_no_gas = ea_no_adsorbed - er_no_desorption (46 rows)
    - er_no_gas = er_no_adsorbed - er_no_desorption (46 rows)
    - er_no_gas = (er_n2_gas + er_o2_gas) / 2 - 0.905 eV (22 rows)

    Barriers relative to the gas phase can be negative.
    """
    steps = load_catapp().query("reference == @NO_REFERENCE").rename(columns={"surface": "metal"})
    steps = steps.set_index(["metal", "termination"])
    activation, reaction = {}, {}
    for (reactant, product), name in NO_STEPS.items():
        step = steps[(steps["reactant"] == reactant) & (steps["product_b"] == product)]
        activation[f"ea_{name}"] = step.loc[~step["trivial"], "activation_energy"]
        reaction[f"er_{name}"] = step["reaction_energy"]
    # Of the desorption every barrier is trivial: its column is empty.
    return pd.DataFrame(activation | reaction).dropna(axis="columns", how="all").sort_index()


def load_catmap_energies(study: str) -> pd.DataFrame:
    """Formation energies of adsorbates and transition states on metals, as microkinetic models take them.

    Parameters
    ----------
    study : str
        One of "co_hydrogenation" (242 rows), "co_oxidation" (36), "co_reduction" (230), "methanol_synthesis" (395).

    Returns
    -------
    pandas.DataFrame
        ``surface`` (missing for molecules in the gas phase), ``site`` (termination, or "gas"), ``species``;
        ``transition_state``: whether it is one, by its name ("H-CO" is that of H + CO; bool); ``formation_energy`` in eV;
        ``frequencies``: tuple of wavenumbers in 1/cm, most empty; ``reference``.

    Notes
    -----
    CO hydrogenation: Top. Catal. 2020 (doi 10.1007/s11244-020-01283-2); CO oxidation: CatMAP, Medford et al. 2015 (doi
    10.1007/s10562-015-1495-6), GPL-3.0; of the two others only the column ``reference`` tells. No licence is stated for
    those.

    The energies of O2 in "co_reduction" are placeholders, 9.0 on the surfaces and 0.0 in the gas (16 rows, their reference
    says "Fake" and "Dummy"); the rows are kept, the energies are missing. Species that end in "-ele" there stand for steps
    with an electron. In "methanol_synthesis" quotation marks are unbalanced; the file is read without quoting (with it, ten
    rows vanish) and the marks are taken off. Three species there have an underscore for the hyphen ("C_OH"), which is
    mended; one row lacks a field, and its reference is taken from where it slid to; OH on Ir is given twice. The zero of
    energy differs between studies (CO in the gas is at 0, 2.74 or 2.77 eV), so do not mix them. Structures of the bulk,
    paths of the authors' files and empty columns are left out.
    """
    if study not in CATMAP_STUDIES:
        raise DataError(f"There is no study {study!r}; there are {', '.join(CATMAP_STUDIES)}.")
    raw = read_table(
        "catmap-energies", f"energies_{study}.txt", sep="\t", quoting=csv.QUOTE_NONE, dtype={"site_name": str},
        missing=("None",),
    )  # fmt: skip
    if study == "methanol_synthesis":
        raw["reference"] = raw["reference"].fillna(raw["other_parameters"])
    placeholder = raw["reference"].str.startswith(("Fake", "Dummy"))
    species = raw["species_name"].str.replace("_", "-")
    return pd.DataFrame(
        {
            "surface": raw["surface_name"],
            "site": raw["site_name"],
            "species": species,
            "transition_state": species.str.contains("-"),
            "formation_energy": raw["formation_energy"].mask(placeholder),
            "frequencies": [tuple(map(float, json.loads(text))) for text in raw["frequencies"]],
            "reference": raw["reference"].str.strip('" '),
        }
    )


def load_ethanol_reforming() -> pd.DataFrame:
    """Fourteen C-C and C-O scissions of ethanol's fragments on 25 surfaces of platinum, palladium and their alloys.

    Returns
    -------
    pandas.DataFrame
        310 rows. ``surface`` ("Pt-Ni-Pt(111)" has Ni in the second layer), ``reaction``, ``reaction_id`` (1 to 14),
        ``bond`` that breaks ("C-C" or "C-O"), ``n_hydrogen`` of the reactant; distances between neighbours in pm
        ``d_nn_top``, ``d_nn_second``, ``d_nn_bulk``; electronegativities ``en_top``, ``en_second``; in eV
        ``e_ads_ethanol``, ``e_initial``, ``e_final``, ``reaction_energy``, and ``activation_energy`` and
        ``e_transition_state``, which are missing in 209 rows.

    Notes
    -----
    Artrith, Lin and Chen 2020 (doi 10.1021/acscatal.0c02089); Pt(100) by Denny et al., Appl. Catal. B 312, 121380 (2022);
    MPL-2.0. The two files are joined: the later one repeats the 87 barriers of the earlier, equal to all digits, which are
    taken once, and adds the 14 steps on Pt(100), of which the descriptors of the surface are missing (so is
    ``e_ads_ethanol``). An activation energy of 100 is a placeholder and read as missing. The column ``Facet`` (1
    throughout) and ``has_TS`` (whether there is a barrier) are left out.
    Reaction energy = e_final - e_initial, activation energy = e_transition_state - e_initial (to 0.0001 eV): do not give
    one as a source of another. Ethanol on Sc-Pt-Pt(111) is at -5.07 eV, far from all others.
    """
    keys = {"Surface": "surface", "Reaction": "reaction"}
    energies = {
        "Initial": "e_initial",
        "Final": "e_final",
        "Er": "reaction_energy",
        "Ea": "activation_energy",
        "E_TS": "e_transition_state",
    }
    of_reaction = {"ID": "reaction_id", "CO_or_CC": "bond", "N_H": "n_hydrogen"}
    of_surface = {
        "d_NN(top)": "d_nn_top",
        "d_NN(2nd)": "d_nn_second",
        "d_NN(bulk)": "d_nn_bulk",
        "EN(top)": "en_top",
        "EN(2nd)": "en_second",
        "Eads(CH3CH2OH)": "e_ads_ethanol",
    }
    table = read_table("ethanol-reforming", "database-dft.csv", keys | of_reaction | of_surface | energies)
    placeholder = table["activation_energy"] == 100
    table.loc[placeholder, ["activation_energy", "e_transition_state"]] = np.nan
    table["bond"] = table["bond"].map({1: "C-C", 2: "C-O"})
    later = read_table("ethanol-reforming", "database-dft-Pt-Mo2N.csv", keys | energies)
    reactions = table[["reaction", *of_reaction.values()]].drop_duplicates()
    added = later[~later["surface"].isin(table["surface"])].merge(reactions, on="reaction")
    return pd.concat([table, added], ignore_index=True)


def load_ethanol_activities() -> pd.DataFrame:
    """Measured activity and selectivities of seven of the surfaces of `load_ethanol_reforming`.

    Returns
    -------
    pandas.DataFrame
        7 rows. ``surface``, ``activity`` (as published, unit not stated), the shares ``reforming``, ``decomposition``,
        ``methane`` (sum 1), ``reference``.

    Notes
    -----
    Skoplyak et al. 2006 and 2009, from Artrith, Lin and Chen 2020 (doi 10.1021/acscatal.0c02089); MPL-2.0. The references
    were filled down a spreadsheet, which counted their last page up: right are 1686-1694 and 150-160.
    """
    columns = {
        "Surface": "surface",
        "Total Activity": "activity",
        "Reforming": "reforming",
        "Decomposition": "decomposition",
        "CH4": "methane",
        "Reference": "reference",
    }
    return read_table("ethanol-reforming", "database-experiment.csv", columns)
