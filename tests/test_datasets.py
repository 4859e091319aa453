"""The fetcher against a server of our own; the loaders against copies of the files, where there are any."""

import hashlib
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from bayestl import datasets
from bayestl.datasets import remote
from bayestl.errors import DataError

copies = pytest.mark.skipif(not os.environ.get("BAYESTL_DATA"), reason="BAYESTL_DATA names no folder of the files")
BODY = b"formula,gap\nNaN,1.5\n,2.5\n"
REACHABLE = {"/whole": BODY, "/wrong": b"formula,gap\nLiF,14\n", "/half": BODY[:9]}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = REACHABLE.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(BODY if self.path == "/half" else body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and one file known under each address."""
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    monkeypatch.delenv("BAYESTL_DATA", raising=False)
    for name in ("whole", "wrong", "half", "gone"):
        source = remote.Source(hashlib.sha256(BODY).hexdigest(), name)
        monkeypatch.setitem(remote.REGISTRY, (name, "toy.csv"), source)
    return tmp_path


@pytest.fixture
def server(cache, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(remote, "BASE", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()


def cached(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_file_is_fetched_once_and_kept(server, cache):
    path = remote.fetch("whole", "toy.csv")
    assert path.read_bytes() == BODY
    assert cached(cache) == [path]
    server.shutdown()
    server.server_close()
    assert remote.fetch("whole", "toy.csv") == path


def test_only_empty_cells_are_missing(server):
    table = remote.read_table("whole", "toy.csv", {"gap": "gap_experiment", "formula": "formula"})
    assert list(table) == ["gap_experiment", "formula"]
    assert table["formula"].isna().tolist() == [False, True]
    assert table["formula"][0] == "NaN"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong", "came with other bytes than were published"),
        ("half", "was not fetched"),
        ("gone", "404"),
    ],
)
def test_of_a_failed_fetch_nothing_is_kept(server, cache, name, said):
    with pytest.raises(DataError, match=said) as caught:
        remote.fetch(name, "toy.csv")
    for part in (hashlib.sha256(BODY).hexdigest(), f"{remote.BASE}/{name}", "nothing was kept", "BAYESTL_DATA"):
        assert part in str(caught.value)
    assert cached(cache) == []


def test_without_a_server_the_error_says_what_to_do(cache, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    monkeypatch.setattr(remote, "BASE", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DataError, match=r"was not fetched; nothing was kept.*download the file by any other means"):
        remote.fetch("whole", "toy.csv")
    assert cached(cache) == []


def test_without_pooch_the_error_says_what_to_install(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install 'bayestl\[data\]'"):
        remote.fetch("whole", "toy.csv")


def test_a_folder_of_copies_is_checked(cache, monkeypatch):
    monkeypatch.setenv("BAYESTL_DATA", str(cache))
    copy = cache / "whole" / "toy.csv"
    with pytest.raises(DataError, match=r"there is no .*toy.csv\. Download"):
        remote.fetch("whole", "toy.csv")
    copy.parent.mkdir()
    copy.write_bytes(BODY[:9])
    with pytest.raises(DataError, match="does not hold the bytes that were published"):
        remote.fetch("whole", "toy.csv")
    copy.write_bytes(BODY)
    assert remote.fetch("whole", "toy.csv") == copy


def test_names_that_are_not_known_are_refused():
    with pytest.raises(DataError, match=r"No file 'a.csv' of a set 'steel-strength'"):
        remote.fetch("steel-strength", "a.csv")
    with pytest.raises(DataError, match="there are gap_optb88vdw"):
        datasets.load_jarvis("hardness")
    with pytest.raises(DataError, match="there are co_hydrogenation"):
        datasets.load_catmap_energies("no_reduction")


def test_the_registry_pins_bytes_and_commits():
    for (name, file), source in remote.REGISTRY.items():
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256), (name, file)
        assert re.fullmatch(r"[\w-]+/[\w-]+/[0-9a-f]{40}/\S+", source.address), (name, file)


ROWS = {
    "aflow_gaps": 27577,
    "borlido_gaps": 472,
    "buchwald_hartwig": 4599,
    "catapp": 3567,
    "cofs": 609,
    "direct_arylation": 1728,
    "ethanol_activities": 7,
    "ethanol_reforming": 310,
    "experimental_gaps": 6354,
    "formation_enthalpies": 1276,
    "freesolv": 642,
    "hse_pbe_gaps": 1134,
    "kingsbury_enthalpies": 2135,
    "kingsbury_gaps": 4604,
    "m2ax": 223,
    "materials_project_gaps": 106113,
    "megnet_gaps": 64121,
    "megnet_pairs": 54105,
    "mpea": 1545,
    "no_steps": 50,
    "opv": 1040,
    "steel_strength": 312,
    "suzuki": 356,
}  # fmt: skip


@copies
@pytest.mark.parametrize("name", ROWS)
def test_tables_are_whole_and_named_in_one_style(name):
    table = getattr(datasets, f"load_{name}")()
    assert len(table) == ROWS[name]
    assert all(column.isidentifier() and column == column.lower() for column in table)
    for column in table.columns.intersection(["formula", "surface", "smiles"]):
        assert table[column].str.len().gt(0).all()
    numbers = table.select_dtypes("number").astype(float)
    assert not np.isinf(numbers).any(axis=None)
    gaps = numbers.filter(like="gap")
    assert ((gaps >= 0) | gaps.isna()).all(axis=None)
    assert (gaps.max() < 22).all()
    formation = numbers.filter(like="e_form")
    assert (formation.abs().max() < 6).all()
    shares = numbers.filter(regex="^yield$|elongation$")
    assert ((shares.min() >= 0) & (shares.max() <= 105)).all()


@copies
def test_gaps():
    borlido = datasets.load_borlido_gaps()
    assert borlido.loc[0, ["formula", "mp_id", "gap_lda", "gap_experiment"]].tolist() == [
        "Ag2CrO4", "mp-557056", 1.3436, 1.75,
    ]  # fmt: skip
    assert borlido.filter(like="gap").isna().sum().loc[lambda n: n > 0].to_dict() == {
        "gap_lda": 1, "gap_lda_soc": 1, "gap_bj": 1, "gap_mbj": 1,
    }  # fmt: skip
    assert borlido["mp_id"].is_unique
    error = (borlido["gap_pbe"] - borlido["gap_experiment"]).abs().mean()
    assert error == pytest.approx(1.05, abs=0.01)
    hse = datasets.load_hse_pbe_gaps()
    assert hse["e_form_experiment"].notna().sum() == 544
    assert set(hse["gap_type_hse"].dropna()) == {"Direct", "Indirect"}
    assert (hse["gap_pbe"] == 0).mean() == pytest.approx(0.72, abs=0.01)
    experiment = datasets.load_experimental_gaps()
    assert "GaAs0.1P0.9G1128" in set(experiment["formula"])
    assert experiment.duplicated().sum() == 168
    assert set(datasets.load_aflow_gaps()["part"]) == {"train", "val", "test"}


@copies
def test_the_order_that_the_folds_of_matbench_need():
    table = datasets.load_kingsbury_gaps()
    assert table["formula"].iloc[[0, 1, 2]].tolist() == ["Ag(AuS)2", "Ag(W3Br7)2", "Ag0.5Ge1Pb1.75S4"]
    assert table.index.equals(pd.RangeIndex(4604))
    assert table["formula"].is_unique
    assert table["mp_id"].notna().sum() == 2481


@copies
def test_megnet():
    table, pairs = datasets.load_megnet_gaps(), datasets.load_megnet_pairs()
    assert table["fidelity"].value_counts().to_dict() == {
        "pbe": 52348, "hse": 6030, "ordered_exp": 2703, "gllb-sc": 2290, "scan": 472, "disordered_exp": 278,
    }  # fmt: skip
    assert not table.duplicated(["fidelity", "material_id"]).any()
    assert pairs[["gap_pbe", "gap_experiment"]].notna().all(axis=1).sum() == 1803
    scan = table[table["fidelity"] == "scan"].set_index("material_id")["gap"]
    borlido = datasets.load_borlido_gaps().set_index("mp_id")["gap_scan"]
    assert (scan - borlido).abs().max() < 1e-12


@copies
@pytest.mark.parametrize(
    ("name", "rows"),
    [("gap_optb88vdw", 28155), ("gap_mbj", 7296), ("e_form_optb88vdw", 28108), ("e_form_experiment", 1643),
     ("dielectric_optb88vdw", 25150), ("dielectric_mbj", 11349), ("bulk_modulus", 10743), ("shear_modulus", 10209),
     ("slme", 3006)],
)  # fmt: skip
def test_jarvis(name, rows):
    table = datasets.load_jarvis(name)
    assert list(table) == ["formula", name, "part"]
    assert len(table) == rows
    assert table[name].dtype == float
    assert table[name].notna().all()
    assert table["formula"].str.fullmatch(r"[A-Z(][A-Za-z0-9().]*").all()  # no dates
    assert ("FeB3" in set(table["formula"])) or name != "dielectric_mbj"


@copies
def test_formation_enthalpies():
    table = datasets.load_formation_enthalpies()
    sources = table[["e_form_experiment", "e_form_mp", "e_form_oqmd"]]
    assert sources.notna().sum().tolist() == [1196, 701, 746]
    assert sources.notna().all(axis=1).sum() == 601
    assert table["oqmd_id"].dtype == "Int64"
    own = datasets.load_kingsbury_enthalpies()
    assert own["formula"].is_unique
    assert own["uncertainty"].notna().sum() == 1834
    assert (own["uncertainty"] == 0).sum() == 5
    assert own["reference"].str.contains("sdata.2017.162").sum() == 1135


@copies
def test_catapp():
    table = datasets.load_catapp()
    assert table["surface"].nunique() == 701
    assert table["activation_energy"].notna().sum() == 1003
    assert (table["activation_energy"].notna() & ~table["trivial"]).sum() == 814
    assert set(table["termination"]) >= {"211", "0001step", "-1010"}
    assert table["url"].isna().sum() == 1287


@copies
def test_steps_of_no_and_the_identities_among_them():
    table = datasets.load_no_steps()
    assert table.index.names == ["metal", "termination"]
    assert table.notna().sum().to_dict() == {
        "ea_n2_gas": 48, "ea_no_adsorbed": 46, "ea_no_gas": 46, "ea_o2_gas": 24, "ea_o2_adsorbed": 6,
        "er_n2_gas": 48, "er_no_adsorbed": 46, "er_no_gas": 46, "er_o2_gas": 24, "er_o2_adsorbed": 6,
        "er_no_desorption": 49,
    }  # fmt: skip
    assert table.loc[("Ag", "111"), "ea_n2_gas"] == 7.0
    for kind in ("ea", "er"):
        rest = table[f"{kind}_no_gas"] - (table[f"{kind}_no_adsorbed"] - table["er_no_desorption"])
        assert rest.count() == 46
        assert rest.abs().max() < 1e-12
    rest = table["er_no_gas"] - (table["er_n2_gas"] + table["er_o2_gas"]) / 2 + 0.905
    assert rest.count() == 22
    assert rest.abs().max() < 1e-12


@copies
@pytest.mark.parametrize(
    ("study", "rows", "surfaces", "species"),
    [("co_hydrogenation", 242, 6, 42), ("co_oxidation", 36, 10, 4), ("co_reduction", 230, 7, 21),
     ("methanol_synthesis", 395, 23, 61)],
)  # fmt: skip
def test_catmap(study, rows, surfaces, species):
    table = datasets.load_catmap_energies(study)
    assert len(table) == rows
    adsorbed = table[table["surface"].notna()]
    assert adsorbed["surface"].nunique() == surfaces
    assert adsorbed["species"].nunique() == species
    assert (table["site"] == "gas").equals(table["surface"].isna())
    assert table["reference"].notna().all()
    assert not table["reference"].str.contains('"').any()
    assert table["formation_energy"].isna().sum() == (16 if study == "co_reduction" else 0)
    assert table["transition_state"].dtype == bool
    assert table["frequencies"].map(lambda own: isinstance(own, tuple)).all()


@copies
def test_ethanol_reforming():
    table = datasets.load_ethanol_reforming()
    assert not table.duplicated(["surface", "reaction"]).any()
    assert table["activation_energy"].notna().sum() == 101
    assert table["activation_energy"].max() < 4
    assert table["surface"].nunique() == 25
    assert table.groupby("bond")["reaction"].nunique().to_dict() == {"C-C": 7, "C-O": 7}
    assert (table["surface"] == "Pt(100)").equals(table["d_nn_top"].isna())
    for upper, difference in (("e_final", "reaction_energy"), ("e_transition_state", "activation_energy")):
        assert (table[upper] - table["e_initial"] - table[difference]).abs().max() < 2e-4
    measured = datasets.load_ethanol_activities()
    assert measured[["reforming", "decomposition", "methane"]].sum(axis=1).to_numpy() == pytest.approx(1)
    assert set(measured["surface"]) <= set(table["surface"])


@copies
def test_cofs():
    table = datasets.load_cofs()
    assert table.index.is_unique
    assert table.isna().sum().loc[lambda n: n > 0].to_dict() == {"gcmc_selectivity": 4, "gcmc_error": 4}
    assert table["henry_selectivity"].corr(table["gcmc_selectivity"]) == pytest.approx(0.98, abs=0.005)
    assert table["gcmc_minutes"].sum() / table["henry_minutes"].sum() == pytest.approx(3.84, abs=0.01)


@copies
def test_freesolv():
    table = datasets.load_freesolv()
    assert table["smiles"].is_unique
    assert table["smiles"].str.contains("#").sum() == 18
    assert table["experiment"].between(-26, 4).all()
    assert (table["gaff"] - table["experiment"]).abs().mean() == pytest.approx(1.11, abs=0.01)
    assert (table["experiment_error"] == 0.6).sum() == 459
    assert table.set_index("name").loc["butan-1-ol", "groups"] == "primary alcohol"
    assert table["groups"].isna().sum() == 38


@copies
def test_reactions_and_blends():
    suzuki = datasets.load_suzuki()
    assert suzuki["case"].value_counts().to_dict() == {"i": 89, "ii": 91, "iii": 88, "iv": 88}
    assert set(suzuki["ligand"]) <= {f"L{number}" for number in range(8)}
    assert suzuki["residence_time"].between(60, 600).all()
    opv = datasets.load_opv()
    assert opv.filter(like="mat").sum(axis=1).to_numpy() == pytest.approx(1)
    leak = opv["mat_2"] == 0
    assert leak.sum() == 65
    assert leak.equals(opv["degradation_pce10"] == opv["degradation_wf3"])
    couplings = datasets.load_buchwald_hartwig()
    whole = couplings.dropna(subset=["aryl_halide", "additive"])
    assert len(whole) == 4132
    assert whole["aryl_halide"].nunique() == 15
    assert whole.groupby("aryl_halide").size().between(274, 276).all()
    arylation = datasets.load_direct_arylation()
    factors = ["base", "ligand", "solvent", "concentration", "temperature"]
    assert arylation[factors].nunique().tolist() == [4, 12, 4, 3, 3]
    assert not arylation.duplicated(factors).any()


@copies
def test_mechanics():
    m2ax = datasets.load_m2ax()
    k, g = m2ax["bulk_modulus"], m2ax["shear_modulus"]
    assert (m2ax["elastic_modulus"] - 9 * k * g / (3 * k + g)).abs().max() < 2
    mpea = datasets.load_mpea()
    measured = mpea[["yield_strength", "tensile_strength", "hardness", "elongation"]]
    assert measured.notna().sum().tolist() == [1067, 539, 530, 619]
    assert mpea.duplicated().sum() == 20
    assert set(mpea["test"].dropna()) == {"C", "T"}
    steel = datasets.load_steel_strength()
    assert steel["formula"].is_unique
    assert steel["elongation"].isna().sum() == 9
    assert (steel["tensile_strength"] > 1000).all()


@copies
def test_without_openpyxl_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"pip install 'bayestl\[data\]'"):
        datasets.load_borlido_gaps()
