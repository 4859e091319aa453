"""Labels in, numbers out: compositions, molecules, surfaces, and tables that are given them as they are."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

import bayestl as btl
from bayestl.features import STATISTICS, _element_properties, _valences, describable, parse_formula


@pytest.mark.parametrize(
    "formula, expected",
    [
        ("Ca3(PO4)2", {"Ca": 3, "P": 2, "O": 8}),
        ("Ga0.5Al.5As", {"Ga": 0.5, "Al": 0.5, "As": 1}),
        ("K4[Fe(CN)6]", {"K": 4, "Fe": 1, "C": 6, "N": 6}),
        ("NaN", {"Na": 1, "N": 1}),
        ("C0H4", {"H": 4}),
        ("HOH", {"H": 2, "O": 1}),
    ],
)
def test_formulas(formula, expected):
    assert parse_formula(formula) == expected


@pytest.mark.parametrize("formula", ["", "xyz", "Ca(OH", "Ca)2", "2", "Fe-O", "C0"])
def test_what_is_no_formula_is_refused_by_name(formula):
    with pytest.raises(btl.DataError, match=r"cannot be read.*Correct them"):
        btl.Compositions()(["GaAs", formula])


def test_statistics_are_those_of_the_atoms():
    """Against the definitions, atom by atom."""
    table = _element_properties()
    found = btl.Compositions()(["Ca3(PO4)2"]).iloc[0]
    atoms = table.loc[["Ca"] * 3 + ["P"] * 2 + ["O"] * 8]
    for name in table:
        y = atoms[name].to_numpy()
        expected = (y.min(), y.max(), np.ptp(y), y.mean(), np.abs(y - y.mean()).mean(), table.loc["O", name])
        assert [found[f"{s}: {name}"] for s in STATISTICS] == pytest.approx(expected)


def test_properties_of_the_elements_are_complete():
    table = _element_properties()
    assert len(table) == 98
    assert np.isfinite(table.to_numpy()).all()
    valence = table["valence electrons"]
    assert valence[["H", "C", "Fe", "Zn", "Ga", "Pb", "U"]].tolist() == [1, 4, 8, 12, 3, 4, 6]


def test_scaling_a_formula_changes_nothing():
    found = btl.Compositions()(["GaAs", "Ga2As2", "Ga0.5As0.5"]).to_numpy()
    assert np.ptp(found, axis=0) == pytest.approx(0.0)
    assert btl.ElementFractions()(["Al2O3"]).iloc[0].loc[["fraction: Al", "fraction: O"]].tolist() == [0.4, 0.6]


def test_valences_against_every_assignment_of_oxidation_states():
    table, formulas = _valences(), ["NaCl", "Fe3O4", "GaAs", "CuFeS2", "Ca3(PO4)2", "NiAl", "Ga0.5Al0.5As", "Si", "NO"]
    found = btl.Valences()(formulas)
    for formula, row in zip(formulas, found.to_dict("records"), strict=True):
        amounts = parse_formula(formula)
        for column, states in (("imbalance", "common"), ("imbalance, any state", "known")):
            sums = [
                abs(sum(a * z for a, z in zip(amounts.values(), each, strict=True)))
                for each in product(*(table.loc[symbol, states] for symbol in amounts))
            ]
            assert row[f"valence: {column}"] == pytest.approx(min(sums) / sum(amounts.values()), abs=5e-4)


@pytest.mark.parametrize(
    "formula", ["NaCl", "Fe3O4", "CuFeS2", "Ca3(PO4)2", "NiAl", "SiC", "NaAlH4", "BaTiO3", "LaPtP"]
)
def test_what_is_left_against_every_cut_and_assignment(formula):
    """Anions are the most electronegative elements, as many as are of groups 14 to 17 or H, but one; or fewer, or none."""
    table, amounts = _valences(), parse_formula(formula)
    order = sorted(amounts, key=lambda symbol: -table.loc[symbol, "electronegativity"])
    sums = []
    for cut in range(len(order)):
        if any(table.loc[symbol, "anion"] == 0 for symbol in order[:cut]):
            break
        states = [[table.loc[symbol, "anion"]] for symbol in order[:cut]]
        states += [table.loc[symbol, "gives"] for symbol in order[cut:]]
        sums += [sum(amounts[symbol] * z for symbol, z in zip(order, each, strict=True)) for each in product(*states)]
    found = btl.Valences()([formula])["valence: left"].item()
    assert found == pytest.approx(min(map(abs, sums)) / sum(amounts.values()), abs=5e-4)


def test_which_formulas_can_be_described():
    assert describable(["GaAs", "Lr2O3", "xyz", "Ca(OH)2", ""]).tolist() == [True, False, False, True, False]


def test_valences_of_compounds_that_everybody_knows():
    labels = ["NaCl", "Al2O3", "HfO2", "ZnO", "LiH", "GaAs", "Fe3O4", "NiAl", "NaTl"]
    found = btl.Valences()(labels).set_axis(labels)
    normal = found.loc[:"GaAs"]
    assert (normal[["valence: left", "valence: left, any state", "valence: outside"]] == 0).all(axis=None)
    assert normal["valence: shells to fill"].to_numpy() == pytest.approx(1.0)
    assert found.loc["Fe3O4", ["valence: left", "valence: outside"]].tolist() == [0.143, 0]  # Fe2+ and Fe3+: 1/7
    assert found.loc[["NiAl", "NaTl"], "valence: outside"].min() > 0.5
    assert found["bond: ionic, most"].idxmax() == "NaCl"


def test_more_states_never_leave_more():
    found = btl.Valences()(["KO2", "O2", "Mn3(OF3)2", "CuCl", "KrF2", "SmS", "CaC2", "CH3NH3PbI3", "He", "Si"])
    for column in ("imbalance", "left"):
        assert (found[f"valence: {column}, any state"] <= found[f"valence: {column}"]).all()
    assert np.isfinite(found.to_numpy()).all()


@pytest.mark.parametrize("formula", ["CuFeS2", "PdH", "Cu3Si", "CSe2", "Ge0.25TePb0.75", "DySn3", "Fe0.947O"])
def test_valences_do_not_depend_on_how_a_formula_is_written(formula):
    """Elements of the same electronegativity are among them, and cuts that are equally good."""
    amounts = parse_formula(formula)
    ways = [
        "".join(f"{symbol}{times * amount:.10f}" for symbol, amount in own)
        for times in (1.0, 0.05, 1 / 3, 7.0)
        for own in (list(amounts.items()), list(amounts.items())[::-1])
    ]
    assert np.ptp(btl.Valences()(ways).to_numpy(), axis=0) == pytest.approx(0.0, abs=1e-6)


def test_what_valences_cannot_read():
    with pytest.raises(btl.DataError, match=r"'Lr2O3 \(no properties of Lr\)'"):
        btl.Valences()(["MgO", "Lr2O3"])
    with pytest.raises(btl.DataError, match="beyond 1e9"):
        btl.Compositions()(["H" + 400 * "9"])


def test_features_are_added(tmp_path):
    both = btl.Compositions() + btl.Valences()
    labels = ["GaAs", "NaCl", "MgO", "ZnS", "CdSe", "KBr"]
    expected = pd.concat([btl.Compositions()(labels), btl.Valences()(labels)], axis=1)
    pd.testing.assert_frame_equal(both(labels), expected)
    with pytest.raises(TypeError):
        both + 1
    table = pd.DataFrame({"formula": labels, "gap": [1.4, 8.5, 7.8, 3.6, 1.7, 7.4]})
    data = btl.TaskData.from_wide(table, inputs=["formula"], tasks=["gap"], features={"formula": both})
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)
    posterior.save(tmp_path / "gaps.nc")
    new = pd.DataFrame({"formula": ["LiF", "InSb"]})
    again = btl.load(tmp_path / "gaps.nc").predict(new)
    assert again.identical(posterior.predict(new))


def test_stereoisomers_are_named_as_told_alike():
    pytest.importorskip("rdkit")
    frame = pd.DataFrame({"smiles": ["C/C=C/C", r"C/C=C\C", "CC=CC", "CCO", "OCC"], "y": [1.0, 2.0, 1.5, 3.0, 3.1]})
    with pytest.warns(UserWarning, match="told alike by their numbers: C/C=C/C and") as said:
        btl.TaskData.from_wide(frame, inputs=["smiles"], tasks=["y"], features={"smiles": btl.Molecules()})
    assert not any("OCC" in str(one.message) for one in said)  # the same in another spelling


def test_surfaces():
    frame = pd.DataFrame({"surface": ["Pt(110)", "Pt(211)", "Pt 110", "Pd(110)"], "y": [1.0, 2.0, 3.0, 4.0]})
    frame["facet"] = ["b", "a", "b", "b"]
    told = {"tasks": ["y"], "features": {"surface": btl.Surfaces()}}
    with pytest.warns(UserWarning, match=r"told alike by their numbers: Pt\(110\) and Pt\(211\)\. A further column"):
        btl.TaskData.from_wide(frame, inputs=["surface"], **told)
    btl.TaskData.from_wide(frame, inputs=["surface", "facet"], **told)  # which tells them apart
    found = btl.Surfaces()(["Pt(111)", "Pt 532", "Ru0001"])
    assert found["coordination"].tolist() == [9, 6, 9]
    assert found["group"].tolist() == [10, 10, 8]
    with pytest.raises(btl.DataError, match=r"'?Pt\(999\)"):
        btl.Surfaces()(["Pt(999)"])


def test_molecules():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    found = btl.Molecules()(["CCO", "c1ccccc1", "[He]"])
    assert found["atoms: H"].tolist() == [6, 6, 0]
    assert np.isfinite(found.to_numpy()).all()
    with pytest.raises(btl.DataError, match="not SMILES"):
        btl.Molecules()(["CC(C"])


def test_a_molecule_written_in_two_ways_is_one_material():
    pytest.importorskip("rdkit")
    a, b = ["CCO", "CCN", "CC(C)O", "CCCO"], ["OCC", "NCC", "OC(C)C", "C(O)CC"]
    pd.testing.assert_frame_equal(btl.Molecules()(a), btl.Molecules()(b), check_exact=True)
    frame = pd.DataFrame({"smiles": a + b, "task": ["md"] * 4 + ["lab"] * 4, "y": np.arange(8.0)})
    features = {"smiles": btl.Molecules()}
    data = btl.TaskData.from_long(frame, inputs=["smiles"], task="task", value="y", features=features)
    assert data.shared_inputs == 4


def test_a_star_has_the_shape_of_a_molecule():
    """Kappa3 of a molecule that has no paths of three bonds is no number: RDKit has 9508 for tert-butanol."""
    pytest.importorskip("rdkit")
    found = btl.Molecules()(["CC(C)(C)O", "CC(C)O", "CC(C)(C)C", "CCCCO", "ICCCI"])
    np.testing.assert_allclose(found["physical: Kappa3"], [0.0, 0.0, 0.0, 3.96, 5.46], atol=5e-3)


def test_magpie_agrees_with_matminer():
    pytest.importorskip("matminer", reason="matminer is not installed")
    from matminer.featurizers.composition import ElementProperty
    from pymatgen.core import Composition

    reference = ElementProperty.from_preset("magpie", impute_nan=False)
    found = btl.Compositions("magpie")(["GaAs", "Ca3(PO4)2"])
    for i, formula in enumerate(("GaAs", "Ca3(PO4)2")):
        for label, value in zip(reference.feature_labels(), reference.featurize(Composition(formula)), strict=True):
            _, statistic, name = label.split(" ", 2)
            ours = {"avg_dev": "deviation"}.get(statistic, statistic)
            if np.isfinite(value):
                assert found.loc[i, f"{ours}: {name}"] == pytest.approx(value), label


# -- in a table -------------------------------------------------------------------------------------------------------

GAPS = pd.DataFrame(
    {
        "formula": ["GaAs", "AlAs", "InP", "GaN", "ZnO", "ZnS", "CdTe", "Si"],
        "pbe": [0.5, 1.5, 0.7, 1.7, 0.7, 2.0, 0.6, 0.6],
        "exp": [1.4, 2.2, None, 3.4, 3.4, None, 1.5, None],
    }
)


def test_a_column_of_formulas_is_described_and_it_is_printed(capsys):
    data = btl.TaskData.from_wide(GAPS, inputs=["formula"], tasks=["pbe", "exp"])
    assert "formula: described by Compositions()" in capsys.readouterr().out
    assert data.x.shape == (13, 132)
    assert data.inputs[0].name == "formula minimum: number"
    long = GAPS.melt(id_vars="formula", var_name="source", value_name="gap").dropna()
    other = btl.TaskData.from_long(long, inputs=["formula"], task="source", value="gap")
    np.testing.assert_array_equal(other.x, data.x)


def test_formulas_can_be_given_when_predicting_saving_and_conditioning(tmp_path):
    data = btl.TaskData.from_wide(
        GAPS, inputs=["formula"], tasks=["pbe", "exp"], features={"formula": btl.Compositions()}
    )
    posterior = btl.fit(btl.Difference.chain("pbe", "exp"), data, method="map")
    new = pd.DataFrame({"formula": ["InAs", "GaP"]})
    expected = posterior.predict(new, task="exp")["mean"].values
    posterior.save(tmp_path / "p.nc")
    np.testing.assert_array_equal(btl.load(tmp_path / "p.nc").predict(new, task="exp")["mean"].values, expected)
    described = data.inputs
    by_hand = btl.Compositions()(["InAs", "GaP"])
    by_hand.columns = [column.name for column in described]
    np.testing.assert_array_equal(posterior.predict(by_hand, task="exp")["mean"].values, expected)
    with pytest.raises(btl.DataError, match="lacks columns 'formula'"):
        posterior.predict({"composition": ["GaP"]}, task="exp")
    with pytest.raises(btl.DataError, match=r"'formula'.*cannot be read"):
        posterior.predict({"formula": ["?"]}, task="exp")


def test_other_inputs_stand_beside_the_described():
    frame = GAPS.assign(temperature=np.arange(8.0), phase=list("abababab"))
    data = btl.TaskData.from_wide(
        frame, inputs=["temperature", "formula", "phase"], tasks=["pbe"], features={"formula": btl.Compositions()}
    )
    names = [column.name for column in data.inputs]
    assert (names[0], names[-1]) == ("temperature", "phase")
    posterior = btl.fit(btl.SingleTask(), data, method="map")
    assert posterior.theta["pbe.length_scale"].shape[1] == 2
    assert posterior.theta["pbe.family_scale"].shape[1] == 6


def test_a_category_stays_one_where_the_user_says_so(capsys):
    data = btl.TaskData.from_wide(GAPS, inputs=["formula"], tasks=["pbe"], categorical=["formula"])
    assert len(data.inputs[0].levels) == 8
    assert "described" not in capsys.readouterr().out


def test_features_of_what_is_no_input_and_what_is_no_features():
    with pytest.raises(btl.DataError, match="not inputs: 'smiles'"):
        btl.TaskData.from_wide(GAPS, inputs=["formula"], tasks=["pbe"], features={"smiles": btl.Compositions()})
    with pytest.raises(btl.DataError, match=r"btl\.Compositions"):
        btl.TaskData.from_wide(GAPS, inputs=["formula"], tasks=["pbe"], features={"formula": "magpie"})
    with pytest.raises(btl.DataError, match="is empty in rows 2"):
        btl.TaskData.from_wide(
            GAPS.assign(formula=GAPS["formula"].where(GAPS.index != 2)), inputs=["formula"], tasks=["pbe"]
        )


def test_a_parquet_file_of_formulas(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    GAPS.to_parquet(tmp_path / "gaps.parquet")
    data = btl.TaskData.from_wide(tmp_path / "gaps.parquet", inputs=["formula"], tasks=["pbe", "exp"])
    assert data.x.shape[1] == 132


@pytest.mark.parametrize(
    "formula, same",
    [
        ("CuSO4.5H2O", "CuSO4(H2O)5"),
        ("CuSO4·5H2O", "CuSO4(H2O)5"),
        ("CuSO4 5H2O", "CuSO4(H2O)5"),
        ("CuSO4 . 5H2O", "CuSO4(H2O)5"),
        ("CuSO4 · 5 H2O", "CuSO4(H2O)5"),
        ("LiFePO4 0.5H2O", "LiFePO4(H2O)0.5"),
        ("Al2O3 2SiO2", "Al2Si2O7"),
        ("NaCl 2H2O", "NaCl(H2O)2"),
        ("CaSO4 .5H2O", "CaSO4(H2O)0.5"),
        ("Ti 3SiC2", "Ti3SiC2"),  # a blank before a subscript
        ("Li 3N", "Li3N"),
        ("H 2O", "H2O"),
        ("Na 2SO4", "Na2SO4"),
        ("Al 2(SO4)3", "Al2(SO4)3"),
        ("Fe 2O 3", "Fe2O3"),
        ("Ga 0.5As 0.5", "Ga0.5As0.5"),
        ("La 1.85Sr 0.15CuO4", "La1.85Sr0.15CuO4"),
        ("MgCl2*6H2O", "MgCl2(H2O)6"),
        ("CaSO4.0.5H2O", "CaSO4(H2O)0.5"),
        ("CaSO4·½H2O", "CaSO4(H2O)0.5"),
        ("NaCl.H2O", "NaClH2O"),
        ("Na0.5H2O", "(Na0.5)(H2O)"),  # no hydrate of nothing
        ("Ga 0.5 As 0.5", "Ga0.5As0.5"),
        ("Al0.25 Co1 Fe1 Ni1", "Al0.25CoFeNi"),
        ("Fe₂O₃", "Fe2O3"),
        ("D2O", "H2O"),
    ],
)
def test_formulas_as_people_write_them(formula, same):
    assert parse_formula(formula) == pytest.approx(parse_formula(same))


@pytest.mark.parametrize("formula", ["Ca(OH]2", "CuSO4·", "2H2O", "A l", "Fe2 3"])
def test_what_cannot_be_meant_is_refused(formula):
    with pytest.raises(ValueError, match=r"bracket|beside a dot|not understood|no element|between two numbers"):
        btl.ElementFractions()([formula])


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda n: pd.DataFrame({"p": range(n + 2)}), "a row for each of the 3 labels"),
        (lambda n: pd.DataFrame({"p": range(n - 1)}), "a row for each of the 3 labels"),
        (lambda n: np.zeros((n, 2)), "got ndarray"),
        (lambda n: pd.DataFrame(index=range(n)), "at least one column"),
        (lambda n: pd.DataFrame({"p": ["a"] * n}), "must give numbers; columns 'p'"),
    ],
)
def test_features_that_do_not_fit_the_labels_are_refused(made, message):
    class Own(btl.features.Features):
        def __call__(self, labels):
            return made(len(labels))

    frame = pd.DataFrame({"what": ["u", "v", "w"], "y": [1.0, 2.0, 3.0]})
    with pytest.raises(btl.DataError, match=message):
        btl.TaskData.from_wide(frame, inputs=["what"], tasks=["y"], features={"what": Own()})


def test_descriptors_do_not_hang_on_what_is_described_with_them():
    """To the last bit: a material is known again by its inputs."""
    pairs = (("Fe", "Ti"), ("Ba", "Mn"), ("Ga", "As"))
    formulas = [f"{a}{i}{b}{j}O{i + j}" for i in range(1, 5) for j in range(1, 5) for a, b in pairs]
    for features in (btl.Compositions() + btl.Valences(), btl.ElementFractions()):
        whole = features(formulas).to_numpy()
        for few in (1, 2, 7, 20):
            np.testing.assert_array_equal(features(formulas[:few]).to_numpy(), whole[:few])
