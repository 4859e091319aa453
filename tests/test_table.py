import warnings
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import bayestl as btl
from bayestl.scaling import Scaling, share_a_scale, task_means, task_spreads

WIDE = pd.DataFrame({"x": [0.0, 0.5, 1.0], "kind": ["p", "q", "p"], "a": [1.0, 1.4, np.nan], "b": [np.nan, 1.9, 2.2]})
LONG = pd.DataFrame({"x": [0.0, 0.5, 1.0, 0.5], "task": ["a", "a", "b", "b"], "y": [1.0, 2.0, 3.0, 4.0]})


def wide(frame=WIDE, **changes):
    return btl.TaskData.from_wide(frame, **({"inputs": ["x", "kind"], "tasks": ["a", "b"]} | changes))


def long(frame=LONG, **changes):
    return btl.TaskData.from_long(frame, **({"inputs": ["x"], "task": "task", "value": "y"} | changes))


def test_labels_that_are_numbers_are_read_as_the_text_that_they_were():
    data = wide(WIDE.assign(kind=["111", "10-10", "111"]))
    assert data.encode({"x": [0.0, 1.0], "kind": [111, "10-10"]})[:, 1].tolist() == data.encode(
        {"x": [0.0, 1.0], "kind": ["111", "10-10"]}
    )[:, 1].tolist()  # fmt: skip
    with pytest.raises(btl.DataError, match="never seen in the data: 110"):
        data.encode({"x": [0.0], "kind": [110]})


def test_an_error_may_be_one_number_for_a_task():
    told = wide(WIDE.assign(e=[0.1, 0.1, np.nan]), errors={"a": "e"})
    for same in (wide(errors={"a": 0.1}), wide(WIDE.assign(e=0.1), errors={"a": "e"})):
        np.testing.assert_array_equal(same.errors, told.errors)
    np.testing.assert_array_equal(told.errors, [0.1, 0.1, np.nan, np.nan])
    np.testing.assert_array_equal(long(error={"b": 2}).errors, [np.nan, np.nan, 2, 2])


def test_wide_reads_each_filled_cell_once():
    data = wide()
    assert data.counts.tolist() == [2, 2]
    assert data.rows.tolist() == [0, 1, 1, 2]
    np.testing.assert_array_equal(data.values, [1.0, 1.4, 1.9, 2.2])
    assert data.inputs[1].levels == ("p", "q")


def test_wide_and_long_agree():
    melted = WIDE.melt(id_vars=["x", "kind"], value_vars=["a", "b"], var_name="task", value_name="y").dropna()
    other = long(melted, inputs=["x", "kind"])
    pd.testing.assert_frame_equal(wide().to_frame().reset_index(drop=True), other.to_frame().reset_index(drop=True))


def test_xarray_brings_its_units():
    dataset = xr.Dataset.from_dataframe(WIDE)
    dataset["a"].attrs["units"] = "eV"
    data = wide(dataset)
    assert data.tasks[0].unit == "eV"
    np.testing.assert_array_equal(data.values, wide().values)


def test_callers_table_is_untouched_and_data_are_read_only():
    before = WIDE.copy(deep=True)
    data = wide()
    pd.testing.assert_frame_equal(WIDE, before)
    for name in ("x", "values", "errors", "task_index"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(data, name)[0] = 0
    described = wide(task_descriptors=pd.DataFrame({"p": [1.0, 2.0]}, index=["a", "b"]))
    with pytest.raises(ValueError, match="read-only"):
        described.descriptors.iloc[0, 0] = 5.0


def test_replicates_are_kept():
    frame = pd.concat([LONG, LONG])
    assert len(long(frame)) == 8
    assert long(frame).summary().loc["a", "distinct inputs"] == 2


def test_summary_counts_overlaps():
    summary = wide().summary()
    assert summary.loc["a", "shared with b"] == 1
    assert summary.loc["b", "rows"] == 2


def bad(frame, **cells):
    return frame.assign(**cells)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: long(inputs=["z"]), r"lacks columns 'z'"),
        (lambda: long(pd.concat([LONG, LONG[["x"]]], axis=1)), r"several columns named 'x'"),
        (lambda: long(bad(LONG, x=[0, np.nan, 1, 2])), r"Input 'x' is missing or infinite in rows 1"),
        (lambda: long(bad(LONG, x=[0, np.inf, 1, 2])), r"'x' is infinite in rows 1"),
        (lambda: long(bad(LONG, y=[1.0, np.nan, 1, 2])), r"'y' is empty in rows 1 \(tasks 'a'\)"),
        (lambda: long(bad(LONG, y=["1", "n.a.", "2", "3"])), r"'y' \(task 'b'\) must hold numbers; got '2', '3' in rows 2, 3"),
        (lambda: long(bad(LONG, y=[0.2, "<0.1", 2.0, 3.0])), r"got '<0.1' in rows 1. Give the limit itself .* Censored"),
        (lambda: long(bad(LONG, y=[1, False, True, True])), r"'y' \(task '[ab]'\) must hold numbers"),
        (lambda: long(bad(LONG, y=[1j, 2, 3, 4])), r"'y' \(task '[ab]'\) must hold numbers"),
        (lambda: long(bad(LONG, y=pd.Timestamp("2020"))), r"'y' \(task '[ab]'\) must hold numbers"),
        (lambda: long(bad(LONG, y=np.inf)), r"'y' \(task 'a'\) is infinite in rows 0, 1"),
        (lambda: long(bad(LONG, e=[0.1, -0.1, 0.1, 0.1]), error="e"), r"'e' \(task 'a'\) holds negative errors in rows 1"),
        (lambda: long(bad(LONG, task=["a", None, "b", "b"])), r"names no task in rows 1"),
        (lambda: long(tasks=["a"]), r"`tasks` does not list: 'b'"),
        (lambda: long(tasks=["a", "b", "c"]), r"Tasks without a row in column 'task': 'c'"),
        (lambda: long(LONG.iloc[:0]), r"no rows"),
        (lambda: long(units={"c": "eV"}), r"`units` names neither a task nor an input: 'c'"),
        (lambda: long(inputs=[]), r"`inputs` is empty"),
        (lambda: long(inputs=["x", "x"]), r"`inputs` repeats 'x'"),
        (lambda: long(inputs="x"), r"single string 'x'"),
        (lambda: long(bad(LONG, x=pd.Timestamp("2020"))), r"'x' holds Timestamp objects"),
        (lambda: long(categorical=["q"]), r"not inputs: 'q'"),
        (lambda: long(np.zeros((3, 2))), r"Expected a pandas DataFrame"),
        (lambda: wide(bad(WIDE, b=np.nan)), r"Task 'b' has no value in any row"),
        (lambda: long(inputs=["x", "y"]), r"as an input and as task, value or error: 'y'"),
        (lambda: long(LONG.rename(columns={"x": "obs"}), inputs=["obs"]), r"cannot be called 'obs'"),
        (lambda: long(bad(LONG, x=[Decimal("1"), 2, 3, 4])), r"'x' holds Decimal objects"),
        (lambda: long(bad(LONG, y=[1e200, 2, 3, 4])), r"exceeds 1e\+150 in rows 0"),
        (lambda: long(tasks=[]), r"`tasks` is empty"),
        (lambda: wide(inputs="x"), r"single string 'x'"),
        (lambda: wide(inputs=["x", "a"]), r"both as an input and as a task: 'a'"),
        (lambda: wide(errors={"c": "x"}), r"`errors` names tasks that `tasks` does not list: 'c'"),
        (lambda: wide(bad(WIDE, e=[0.1, 0.1, 0.2]), errors={"a": "e"}), r"gives an error where task 'a' has no value, in rows 2"),
        (lambda: wide(bad(WIDE, e=[np.nan, np.nan, 0.1]), errors={"a": "e"}), r"gives an error where .* in rows 2"),
        (lambda: wide(errors={"a": -0.1}), r"error of task 'a' must be a column's name, or a standard deviation.*got -0.1"),
        (lambda: wide(errors={"a": np.nan}), r"error of task 'a' must be .* got nan"),
        (lambda: wide(errors={"a": True}), r"error of task 'a' must be .* got True"),
        (lambda: long(error={"c": 0.1}), r"`error` names tasks that column 'task' does not hold: 'c'"),
        (lambda: long(error=0.1), r"`error` must map names, as \{'name': 0.1\}; got 0.1"),
        (lambda: wide(bad(WIDE, kind=["p", None, "q"])), r"Categorical input 'kind' is missing in rows 1"),
        (lambda: wide().encode({"x": [0.0], "kind": ["r"]}), r"levels never seen in the data: 'r'"),
        (lambda: wide().encode({"x": [0.0]}), r"lacks columns 'kind'"),
        (lambda: wide().index_of("c"), r"Unknown task 'c'. The tasks are 'a', 'b'"),
        (lambda: wide().where(np.array([True, True, False, False])), r"leaves no row for tasks 'b'"),
        (lambda: wide().append(long()), r"new rows have inputs 'x'; expected 'x', 'kind'"),
        (lambda: wide(task_descriptors=pd.DataFrame({"p": [1.0]}, index=["a"])), r"no row for tasks 'b'"),
        (lambda: wide(task_descriptors={"a": 1.0}), r"must be a pandas DataFrame"),
        (lambda: wide(task_descriptors=pd.DataFrame({"p": [1.0, 2.0, 3.0]}, index=["a", "a", "b"])), r"one row for each task"),
        (lambda: wide(errors="e"), r"`errors` must map names"),
        (lambda: wide(grids()["a"]), r"got an xarray DataArray"),
        (lambda: wide().encode({"x": 0.0, "kind": "p"}), r"lists of one length.*'x': a single value"),
        (lambda: wide().encode({"x": [0.0], "kind": ["p", "q"]}), r"lists of one length.*'x': 1, 'kind': 2"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_place(make, says):
    with pytest.raises(btl.DataError, match=says):
        make()


@st.composite
def tables(draw):
    """Long tables of any size: values of any magnitude, any task anywhere, an input numeric or categorical."""
    n = draw(st.integers(2, 30))
    number = st.floats(-1e12, 1e12, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-12)
    return pd.DataFrame(
        {
            "x": draw(st.lists(number, min_size=n, max_size=n)),
            "kind": draw(st.lists(st.sampled_from(["p", "q", "r"]), min_size=n, max_size=n)),
            "task": draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=n, max_size=n)),
            "y": draw(st.lists(number, min_size=n, max_size=n)),
        },
        index=draw(st.permutations(range(n))),
    )


@pytest.mark.filterwarnings("ignore:Input .* is it in another unit")
@settings(max_examples=60, deadline=None)
@given(tables())
def test_nothing_is_lost_on_the_way_in_and_out(frame):
    data = long(frame, inputs=["x", "kind"])
    back = data.to_frame()
    assert back["value"].tolist() == frame["y"].tolist()
    assert back["task"].tolist() == frame["task"].tolist()
    assert back["kind"].tolist() == frame["kind"].tolist()
    assert back["x"].tolist() == frame["x"].tolist()
    assert back.index.tolist() == frame.index.tolist()
    assert data.counts.sum() == len(frame)


@pytest.mark.filterwarnings("ignore:Input .* is it in another unit")
@settings(max_examples=60, deadline=None)
@given(tables())
def test_scaling_is_finite_bounded_and_invertible(frame):
    data = long(frame, inputs=["x", "kind"])
    scaling = Scaling.of_inputs(data, task_means(data), task_spreads(data))
    x, index = scaling.inputs(data.x), data.task_index
    y = (data.values - scaling.location[index]) / scaling.scale[index]
    assert x.isfinite().all()
    assert x.abs().max() <= np.sqrt(0.5) + 1e-9
    assert (scaling.scale > 0).all()
    back = y * scaling.scale[data.task_index] + scaling.location[data.task_index]
    np.testing.assert_allclose(back, data.values, rtol=1e-9, atol=1e-9 * np.abs(data.values).max())
    assert x[:, 1:].square().sum(1).sub(0.5).abs().max() < 1e-12  # one level each, at 1/sqrt(2)


def test_scaling_follows_units_of_the_inputs():
    data, metres = wide(), wide(WIDE.assign(x=WIDE["x"] * 1e-9 + 7))
    ours, theirs = (Scaling.of_inputs(d, task_means(d), task_spreads(d)).inputs(d.x) for d in (data, metres))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_one_ruler_only_for_one_unit_and_like_spreads():
    assert share_a_scale(long())
    assert not share_a_scale(long(units={"a": "eV"}))
    apart = LONG.assign(y=[1.0, 2.0, 300.0, 400.0])
    assert not share_a_scale(long(apart))
    assert share_a_scale(long(apart, units={"a": "eV", "b": "eV"}))


def test_the_spread_of_a_few_values_is_drawn_to_that_of_the_others():
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"x": rng.random(40), "task": "a", "y": rng.normal(size=40)})
    replicates = pd.DataFrame({"x": [0.5, 0.5], "task": "b", "y": [0.300, 0.301]})
    data = long(pd.concat([many, replicates], ignore_index=True))
    spread = task_spreads(data)
    assert spread[0] == pytest.approx(many["y"].std(ddof=0), rel=1e-9)
    assert spread[1] == pytest.approx(np.sqrt(3 / 4) * spread[0], rel=0.01)


def test_numbers_in_object_columns_are_numbers_and_booleans_are_categories():
    data = long(
        LONG.assign(x=pd.Series([np.int64(1), 2.5, np.float32(3), 4], dtype=object), flag=[True, False] * 2),
        inputs=["x", "flag"],
    )
    assert data.inputs[0].levels is None
    assert data.inputs[1].levels == (False, True)


def test_a_small_spread_on_a_large_offset_is_a_spread():
    y = 1e6 + 1e-4 * np.sin(np.arange(10.0))
    data = long(pd.DataFrame({"x": np.arange(10.0), "task": "a", "y": y}))
    assert task_spreads(data)[0] == pytest.approx(y.std(), rel=1e-9)


def test_text_that_reads_as_numbers_is_asked_about():
    text = LONG.assign(x=["1", "2.5", "1", "4"])
    with pytest.warns(UserWarning, match=r"'x' is text that reads as numbers.*pandas.to_numeric.*categorical=\['x'\]"):
        assert long(text).inputs[0].levels == ("1", "2.5", "4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert long(text, categorical=["x"]).inputs[0].levels == ("1", "2.5", "4")
        assert long(LONG.assign(x=["1", "a", "b", "4"])).inputs[0].levels == ("1", "4", "a", "b")


@pytest.mark.parametrize("cells", [["0.1", "n/a", "0.3", "0.4"], [0.1, "12,5", 0.3, 0.4], [0.1, "0.2", 0.3, 0.4]])
def test_stray_text_among_numbers_is_no_category(cells):
    frame = LONG.assign(x=pd.Series(cells, dtype=object))
    with pytest.raises(btl.DataError, match=r"'x' holds numbers, and text in rows 1: .*categorical=\['x'\]"):
        long(frame)
    assert len(long(frame, categorical=["x"]).inputs[0].levels) == 4


def grids():
    return xr.Dataset(
        {
            "a": ("x", [1.0, 2.0, 1.5]), "b": (("x", "y"), np.arange(12.0).reshape(3, 4)),
            "spectrum": (("x", "wl"), np.ones((3, 5))),
        },
        coords={"x": [0.0, 0.5, 1.0], "y": [0.0, 1.0, 2.0, 3.0]},
    )  # fmt: skip


def test_variables_of_other_dimensions_repeat_no_observation():
    data = wide(grids(), inputs=["x"], tasks=["a"])
    assert data.values.tolist() == [1.0, 2.0, 1.5]
    assert data.encode(grids()).tolist() == [[0.0], [0.5], [1.0]]
    assert wide(grids(), inputs=["x", "y"], tasks=["b"]).counts.tolist() == [12]
    for inputs in (["x"], ["x", "y"]):
        with pytest.raises(btl.DataError, match=r"'a' does not depend on dimension 'y'.*several times"):
            wide(grids(), inputs=inputs, tasks=["a", "b"])


# -- what users get wrong ---------------------------------------------------------------------------------------------


def test_decimal_commas_are_told():
    with pytest.raises(btl.DataError, match=r"'a' must hold numbers; got '1,0', '1,4'.*decimal=','"):
        wide(WIDE.assign(a=["1,0", "1,4", None]))
    with pytest.warns(UserWarning, match=r"'x' is text that reads as numbers.*decimal=','"):
        wide(WIDE.assign(x=["0,1", "0,5", "1,0"]))


def test_the_cell_that_keeps_a_column_from_being_numbers_is_named():
    spoiled = WIDE.assign(a=["1.0", "1.4", "312 (?)"])
    with pytest.raises(
        btl.DataError, match=r"'a' must hold numbers; got '312 \(\?\)' in rows 2\. Correct or drop those cells"
    ):
        wide(spoiled)


def test_names_that_differ_only_in_case_or_spaces_are_pointed_out():
    with pytest.warns(UserWarning, match="Tasks in column 'task' differ only in case or spaces.*'a' and 'A '"):
        long(LONG.assign(task=["a", "A ", "b", "b"]))
    with pytest.warns(UserWarning, match="Levels of input 'kind' differ only .* 'P' and 'p'"):
        wide(WIDE.assign(kind=["p", "q", "P"]))
    with pytest.warns(UserWarning, match="Classes of task 'a' differ only"):
        wide(WIDE.assign(a=["yes", "Yes", None]))


def test_described_columns_stay_the_callers():
    frame = pd.DataFrame(
        {"formula": ["NaCl", "KCl", "NaCl", "LiF"], "t": [1.0, 2.0, 3.0, 4.0], "y": [1.0, 2.0, 1.1, 3.0]}
    )
    data = btl.TaskData.from_wide(
        frame, inputs=["formula", "t"], tasks=["y"], features={"formula": btl.ElementFractions()}
    )
    assert data.columns == ("formula", "t")
    assert f"inputs: formula ({len(data.inputs) - 1} descriptors), t)" in repr(data)
    with pytest.raises(btl.DataError, match=r"lacks columns 't'\. It has 'formula'\."):
        data.encode(frame[["formula"]])
    with pytest.raises(btl.DataError, match=r"lacks columns 'formula'\. It has 't'\."):
        data.encode(frame[["t"]])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map")
    group = btl.leave_out(posterior, by="formula")["group"].values
    assert group[0] == group[2]
    assert len(set(group)) == 3
    with pytest.raises(btl.DataError, match=r"an input \('formula', 't'\).*by=table\['paper'\]"):
        btl.leave_out(posterior, by="paper")


def test_names_that_the_results_use_are_refused():
    with pytest.raises(btl.DataError, match="Tasks cannot be called 'draw'"):
        wide(WIDE.rename(columns={"a": "draw"}), tasks=["draw", "b"])
    with pytest.raises(btl.DataError, match="Tasks cannot be called 'class_a'"):
        wide(WIDE.assign(a=["u", "v", "u"]).rename(columns={"b": "class_a"}), tasks=["a", "class_a"])


def test_classes_are_text_numbers_or_truth():
    with pytest.raises(btl.DataError, match=r"classes that are Interval objects.*astype\(str\)"):
        wide(WIDE.assign(a=pd.cut([0.0, 1.0, 2.0], 3)))


def test_a_csv_is_to_be_read_first():
    with pytest.raises(btl.DataError, match=r"read this one first: pandas.read_csv\('alloys.csv'\)"):
        wide("alloys.csv")


def test_text_that_is_hardly_a_label_is_pointed_out():
    x = np.linspace(0, 1, 30)
    frame = pd.DataFrame({"x": x, "T": [f"{300 + 10 * i} K" for i in range(30)], "gap": 2 * x})
    with (
        pytest.warns(UserWarning, match="holds numbers with 'K' behind them"),
        pytest.warns(UserWarning, match="30 levels in 30"),
    ):
        btl.TaskData.from_wide(frame, inputs=["T"], tasks=["gap"])
    frame["gap"] = [f"{v:.2f} eV" for v in x]
    with pytest.warns(UserWarning, match="Task 'gap' holds numbers with 'eV' behind them"):
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap"])
    frame["Compound"] = [f"GaAs{i}" for i in range(30)]
    with pytest.warns(UserWarning, match=r"30 levels in 30 rows.*features=\{'Compound'"):
        btl.TaskData.from_wide(frame.assign(gap=x), inputs=["Compound"], tasks=["gap"])
    btl.TaskData.from_wide(frame.assign(gap=x), inputs=["T"], tasks=["gap"], categorical=["T"])
    polytypes = frame.assign(gap=x, stack=np.resize(["2H", "4H", "6H", "8H"], 30))
    btl.TaskData.from_wide(polytypes, inputs=["stack"], tasks=["gap"])


def test_many_zeros_are_pointed_out_where_nothing_is_said():
    x = np.linspace(0, 1, 30)
    frame = pd.DataFrame({"x": x, "gap": np.where(x < 0.5, 0.0, 2 * x)})
    with pytest.warns(UserWarning, match="15 of 30 values are exactly 0"):
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap"])
    btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap"], likelihoods={"gap": btl.Gaussian()})
    btl.TaskData.from_wide(
        frame.assign(gap=frame["gap"] - 5 * (x > 0.9)), inputs=["x"], tasks=["gap"]
    )  # some are below


def test_labels_of_rows_that_stand_for_several_are_pointed_out():
    x = np.linspace(0, 1, 20)
    frame = pd.DataFrame({"x": x, "y": x**2})
    twice = pd.concat([frame.iloc[:10], frame.iloc[10:].reset_index(drop=True)])
    with pytest.warns(UserWarning, match="10 labels of rows stand for rows with different inputs"):
        btl.TaskData.from_wide(twice, inputs=["x"], tasks=["y"])
    btl.TaskData.from_wide(
        pd.concat([frame, frame.assign(y=frame["y"] + 0.01)]), inputs=["x"], tasks=["y"]
    )  # replicates


@pytest.mark.parametrize("warp", [btl.Log(), btl.Sqrt(0.0), btl.Softplus()])
def test_errors_that_depend_on_what_was_measured_are_pointed_out(warp):
    x = np.linspace(0, 1, 20)
    frame = pd.DataFrame({"x": x, "y": 1 + 0.3 * np.sin(5 * x)})
    told = {"inputs": ["x"], "tasks": ["y"], "errors": {"y": "e"}}
    with pytest.warns(UserWarning, match="depend much on the very value"):
        btl.TaskData.from_wide(frame.assign(e=1.2), likelihoods={"y": btl.Gaussian(warp)}, **told)
    btl.TaskData.from_wide(frame.assign(e=0.05), likelihoods={"y": btl.Gaussian(warp)}, **told)
    btl.TaskData.from_wide(frame.assign(e=1.2), **told)
    btl.TaskData.from_wide(frame.assign(e=0.3 * frame["y"]), likelihoods={"y": btl.Gaussian(btl.Log())}, **told)


def test_an_input_that_lies_elsewhere_in_one_task_is_named():
    frame = pd.DataFrame(
        {"T": np.r_[np.linspace(0, 40, 9), np.linspace(273, 313, 9)], "lab": ["a"] * 9 + ["b"] * 9, "v": 1.0}
    )
    told = {"inputs": ["T"], "task": "lab", "value": "v"}
    with pytest.warns(
        UserWarning, match=r"Input 'T' is 0 to 40 in task 'a' and 273 to 313 in the others: .* another unit"
    ):
        btl.TaskData.from_long(frame, **told)
    nearer = frame.assign(T=lambda t: t["T"] - 200.0 * (t["lab"] == "b"))
    assert btl.TaskData.from_long(nearer, **told).summary()["T"].tolist() == ["0 to 40", "73 to 113"]


def test_rows_that_repeat_another_to_the_last_digit_are_named():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30), "y": rng.normal(size=30)})
    told = {"inputs": ["x"], "tasks": ["y"]}
    twice = pd.concat([frame, frame.iloc[:4]], ignore_index=True)
    with pytest.warns(UserWarning, match=r"Task 'y': 4 of 34 rows repeat another .*drop_duplicates"):
        btl.TaskData.from_wide(twice, **told)
    btl.TaskData.from_wide(twice.drop_duplicates(), **told)
    btl.TaskData.from_wide(twice.assign(y=twice["y"].round(1)), **told)  # equal readings of a coarse scale
    btl.TaskData.from_wide(twice.assign(y=twice["y"] + 1e-6 * rng.normal(size=34)), **told)  # replicates


def test_a_single_task_is_selected_by_its_name():
    frame = pd.DataFrame({"x": [0.0, 1.0], "lab": [1.0, 2.0], "other": [1.0, 3.0]})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["lab", "other"])
    assert data.select("lab").names == ("lab",)


def test_new_rows_of_one_class_are_read_and_nothing_is_learned_from_them_alone():
    frame = pd.DataFrame({"x": np.arange(20.0), "qc": ["pass", "fail"] * 10})
    told = {"inputs": ["x"], "tasks": ["qc"]}
    posterior = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, **told), seed=0, progress=False)
    more = btl.TaskData.from_wide(pd.DataFrame({"x": [4.1, 4.2], "qc": ["pass", "pass"]}), **told)
    with pytest.raises(btl.DataError, match="'qc' holds a single class, 'pass'"):
        btl.fit(btl.SingleTask(), more)
    at = {"x": [4.15]}
    before, after = (
        p.predict(at, "qc")["probability"].sel({"class": "pass"}).item() for p in (posterior, posterior.condition(more))
    )
    assert after > before
    expected = np.log(posterior.predict({"x": [4.1, 4.2]}, "qc")["probability"].sel({"class": "pass"}))
    np.testing.assert_allclose(posterior.score(more)["log_density"], expected, rtol=1e-6)


def test_blank_text_is_an_empty_cell():
    frame = pd.DataFrame(
        {"x": np.arange(6.0), "qc": ["pass", "fail", "", "pass", " ", "fail"], "y": [1, "", 2, 3, 4, 5]}
    )
    with pytest.warns(UserWarning, match="blank text are taken as empty: 2 of 'qc', 1 of 'y'"):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["qc", "y"])
    assert data.counts.tolist() == [4, 5]
    assert data.tasks[0].levels == ("fail", "pass")
    assert frame["qc"][2] == ""  # the caller's table is as it was
    long = pd.DataFrame({"x": [0.0, 1.0], "task": ["a", "a"], "y": ["1", " "]})
    with (
        pytest.warns(UserWarning, match="1 of 'y'"),
        pytest.raises(btl.DataError, match="'y' is empty in rows 1"),
    ):
        btl.TaskData.from_long(long, inputs=["x"], task="task", value="y")


@pytest.mark.parametrize(
    "cells, advice",
    [
        (["3,550", "905", "1,204"], r"thousands=','\) if the commas part thousands, with decimal=','"),
        (["3,550.5", "905", "1,204"], r"separators of thousands: pandas.read_csv\(..., thousands=','"),
        (["3,550,100", "905"], r"thousands=','"),
        (["3,55", "905", "1,204"], r"decimal commas: pandas.read_csv\(..., decimal=','"),
        (["3'550", "1'204"], r"Take the separators of thousands away"),
        (["3 550", "1 204"], r"Take the separators of thousands away"),
    ],
)
def test_commas_are_told_from_points(cells, advice):
    frame = pd.DataFrame({"x": np.arange(len(cells)), "y": cells})
    with pytest.raises(btl.DataError, match=advice):
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])


def test_text_of_which_most_is_seen_once_is_hardly_classes():
    frame = pd.DataFrame({"x": np.arange(40.0)}).assign(y=lambda f: [f"{v:.0f}-{v + 10:.0f}" for v in f["x"]])
    with pytest.warns(UserWarning, match="'y' is text, .* 40 different values in 40 rows"):
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])


def test_slips_of_the_pen_are_named():
    frame = pd.DataFrame({"x": np.arange(21.0), "task": ["DFT"] * 20 + ["DTF"], "y": np.arange(21.0)})
    with pytest.warns(UserWarning, match="Task 'DTF' of column 'task' has one row, 'DFT' has 20"):
        btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y")
    solvents = btl.TaskData.from_wide(pd.DataFrame({"s": ["water", "oil"], "y": [1.0, 2.0]}), inputs=["s"], tasks=["y"])
    with pytest.raises(btl.DataError, match="'water ' is 'water' but for case or spaces"):
        solvents.encode({"s": ["water "]})


def test_new_rows_need_no_features():
    """The posterior's data know how a column is described."""
    frame = pd.DataFrame(
        {"surface": ["Cu(111)", "Pt(111)", "Pt(211)", "Ni(111)"], "x": [1.0, 2, 3, 4], "E": [-0.6, -1.3, -1.6, -1.1]}
    )
    told = {"inputs": ["x", "surface"], "tasks": ["E"]}
    data = btl.TaskData.from_wide(frame, features={"surface": btl.Surfaces()}, **told)
    plain, described = (
        data.append(btl.TaskData.from_wide(frame.head(2), **options, **told))
        for options in ({}, {"features": {"surface": btl.Surfaces()}})
    )
    np.testing.assert_array_equal(plain.x, described.x)
    with pytest.raises(btl.DataError, match="have inputs 'x'; expected 'x', 'surface'"):
        data.append(btl.TaskData.from_wide(frame, inputs=["x"], tasks=["E"]))


def test_codes_for_what_is_missing_are_named():
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"T": rng.uniform(300, 400, 30), "y": rng.random(30)})
    told = {"inputs": ["T"], "tasks": ["y"]}
    fitted = partial(btl.fit, btl.SingleTask(), method="map", progress=False)
    fitted(btl.TaskData.from_wide(frame, **told))  # nothing is said
    frame.loc[[3, 17], "T"] = -999
    with pytest.warns(
        UserWarning, match=r"Input 'T' is -999 in rows 3, 17, and 30\d.* to 39\d.* in all others: a code"
    ):
        fitted(btl.TaskData.from_wide(frame, **told))
    frame["T"] = rng.uniform(0, 998, 30)
    frame.loc[5, "T"] = 999.0  # a value among others
    fitted(btl.TaskData.from_wide(frame, **told))


def test_values_at_a_limit_are_named():
    rng = np.random.default_rng(0)
    x = rng.random(90)
    frame = pd.DataFrame(
        {"x": x, "yield": np.clip(rng.normal(50, 40, 90), 0, 100), "mobility": rng.lognormal(0, 1, 90)}
    )
    with pytest.warns(UserWarning, match=r"are 100, none is beyond.*btl\.Censored\(lower=0, upper=100\)") as said:
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["yield"])
    assert said[0].filename == __file__
    frame["mobility"] = frame["mobility"].clip(upper=frame["mobility"].quantile(0.9))
    with pytest.warns(UserWarning, match=r"upper=[\d.]+, warp=btl\.Log\(\.\.\.\)"):
        btl.TaskData.from_wide(
            frame, inputs=["x"], tasks=["mobility"], likelihoods={"mobility": btl.Gaussian(btl.Log())}
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grades = frame.assign(grade=rng.integers(1, 6, 90).astype(float), plain=rng.random(90))
        btl.TaskData.from_wide(grades, inputs=["x"], tasks=["grade", "plain"])  # of few values each is seen often
        btl.TaskData.from_wide(
            frame, inputs=["x"], tasks=["yield"], likelihoods={"yield": btl.Censored(lower=0.0, upper=100.0)}
        )


def test_values_far_beyond_their_limits_are_named():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 30), "yield": np.linspace(5, 95, 30)})
    frame.loc[3, "yield"] = 1400.0
    law = {"yield": btl.Censored(lower=0.0, upper=100.0)}
    with pytest.warns(UserWarning, match="1400 in row 3 lie far beyond the limits"):
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["yield"], likelihoods=law)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame.loc[3, "yield"] = 103.0  # as instruments have it
        btl.TaskData.from_wide(frame, inputs=["x"], tasks=["yield"], likelihoods=law)
