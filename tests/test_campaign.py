"""Campaigns that are killed, late, out of order, over budget; and their replays. Run as a script, the murders."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bayestl as btl
from bayestl.decide import campaign as module
from bayestl.decide import choice, plain
from bayestl.decide.campaign import Campaign
from bayestl.decide.journal import Journal, read
from bayestl.decide.replay import replay

MODEL = btl.Difference.chain("pbe", "exp")
MODEL_OF_DEAR = btl.Difference.chain("cheap", "dear")
COSTS = {"pbe": 1.0, "exp": 5.0}
KILLS = 60


def truth(task, x):
    return float(np.sin(5 * x) + (0.3 * x if task == "exp" else 0.0))


def toy():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 9)}, index=[f"film {i}" for i in range(9)])
    frame["pbe"] = [truth("pbe", x) if i % 2 == 0 else np.nan for i, x in enumerate(frame["x"])]
    frame["exp"] = [truth("exp", x) if i in (0, 8) else np.nan for i, x in enumerate(frame["x"])]
    return btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"], units={"pbe": "eV", "exp": "eV"}), frame


def begin(path, **options):
    data, frame = toy()
    options = {"target": "exp", "costs": COSTS, "method": "map", "refit_every": 3, "replicates": False, **options}
    return Campaign.create(path, options.pop("model", MODEL), data, options.pop("candidates", frame[["x"]]), **options)


def remembered(fit, found={}):  # noqa: B006
    """`fit`, once for the same data: what the tests are about is beside it."""

    def once(model, data, **options):
        key = (repr(model), data.x.tobytes(), data.task_index.tobytes(), data.values.tobytes(), str(options))
        if key not in found:
            found[key] = fit(model, data, **options)
        return found[key]

    return once


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "fit_whole", remembered(btl.fit))


def finish(campaign, log=lambda text: None, rounds=5):
    """Go on until five suggestions were asked for and told of."""
    while True:
        for number, own in campaign.pending.iterrows():
            campaign.tell(number, truth(own["task"], own["x"]))
            log(f"told {number}\n")
        if campaign._ledger.asks >= rounds:
            return
        log(f"asked {campaign.ask().index[0]}\n")


def story(campaign):
    """All events, without the time of day."""
    return [{k: v for k, v in event.items() if k != "time"} for event in campaign._ledger.events]


# -- murders --------------------------------------------------------------------------------------------------------------


def murders(folder: Path, kills: int) -> dict:
    """Kill campaigns at random moments, go on with each, and compare with one that was left alone."""
    torch.set_num_threads(1)
    module.fit_whole = remembered(btl.fit)
    suggest, made = choice.suggest, {}

    def once(posterior, *args, **options):
        key = (
            posterior.data.x.tobytes(),
            posterior.data.values.tobytes(),
            str(options["seed"]),
            str(options["pending"]),
        )
        if key not in made:
            made[key] = suggest(posterior, *args, **options)
        return made[key]

    choice.suggest = once
    with begin(folder / "reference.jsonl") as campaign:
        finish(campaign)
        reference = story(campaign)
    with begin(folder / "again.jsonl") as campaign:
        began = time.perf_counter()
        finish(campaign)
        lasts = time.perf_counter() - began
    rng, out = random.Random(0), {"same": 0, "lost": 0, "interrupted": 0, "ghosts": 0}
    for trial in range(kills):
        path = folder / f"{trial}.jsonl"
        ear, mouth = os.pipe()
        child = os.fork()
        if child == 0:
            campaign = begin(path)
            finish(campaign, lambda text, mouth=mouth: os.write(mouth, text.encode()))
            os._exit(0)
        os.close(mouth)
        time.sleep(rng.uniform(0.0, 1.5) * lasts)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(ear) as pipe:
            heard = pipe.read().split("\n")[:-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a torn line
            campaign = Campaign.open(path) if path.exists() else begin(path)
        with campaign:
            known = [f"asked {c['id']}" for e in story(campaign) if e["event"] == "ask" for c in e["chosen"]]
            known += [f"told {e['id']}" for e in story(campaign) if e["event"] == "tell"]
            out["lost"] += len(set(heard) - set(known))
            out["ghosts"] += len(set(known) - set(heard)) > 1
            out["interrupted"] += len(known) < 10
            finish(campaign)
            out["same"] += story(campaign) == reference
    # Two processes.
    path, (ear, mouth) = folder / "shared.jsonl", os.pipe()
    begin(path).close()
    child = os.fork()
    if child == 0:
        campaign = Campaign.open(path)
        os.write(mouth, b"open")
        time.sleep(60)
        os._exit(campaign is None)
    os.read(ear, 4)
    try:
        Campaign.open(path)
    except btl.DataError as error:
        out["message"], out["holder"] = str(error), child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    Campaign.open(path).close()  # the dead do not block
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_is_lost_when_killed_and_two_processes_are_told_apart(tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), str(KILLS)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["lost"] == 0
    assert found["ghosts"] == 0
    assert found["same"] == KILLS
    assert found["interrupted"] >= KILLS // 4  # the kills did come in the middle
    assert f"process {found['holder']} on " in found["message"]


def test_a_journal_cut_at_any_byte_loses_only_the_torn_line(tmp_path):
    campaign = begin(tmp_path / "c.jsonl")
    finish(campaign, rounds=2)
    campaign.close()
    whole = (tmp_path / "c.jsonl").read_bytes()
    events, _, size = read(whole, "c")
    assert size == len(whole)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(ends[0], len(whole)):
        kept, _, size = read(whole[:cut], "c")
        assert kept == events[: sum(end <= cut for end in ends)]
        assert size == max(end for end in ends if end <= cut)
    for cut in (0, ends[0] - 1):
        with pytest.raises(btl.DataError, match="cut short"):
            read(whole[:cut], "c")


def test_a_torn_line_is_dropped_with_a_notice_and_the_story_goes_on_the_same(tmp_path):
    path, other = tmp_path / "c.jsonl", tmp_path / "d.jsonl"
    with begin(path) as campaign, begin(other) as alone:
        finish(campaign, rounds=2)
        finish(alone, rounds=4)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="being written when its process was killed"):
        campaign = Campaign.open(path)
    with campaign, Campaign.open(other) as alone:
        finish(campaign, rounds=4)
        assert story(campaign) == story(alone)
    Campaign.open(path).close()  # and no notice any more


def test_damage_is_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    with begin(path) as campaign:
        finish(campaign, rounds=2)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for broken in (whole.replace(b'"id": 1', b'"id": 2', 1), b"".join([lines[0], *lines[2:]]), b"".join(lines[::-1])):
        path.write_bytes(broken)
        with pytest.raises(btl.DataError, match="is damaged"):
            Campaign.open(path)
        assert path.read_bytes() == broken
    path.write_bytes(whole)
    Campaign.open(path).close()
    path.write_text("hello\n")
    with pytest.raises(btl.DataError, match="Line 1 of"):
        Campaign.open(path)
    journal, _ = Journal.create(tmp_path / "other.jsonl", {"event": "something"})
    journal.close()
    with pytest.raises(btl.DataError, match="does not begin as a campaign"):
        Campaign.open(tmp_path / "other.jsonl")
    Journal.open(tmp_path / "other.jsonl")[0].close()  # the refusal let go of it


def test_a_line_that_cannot_be_written_is_not_half_there(tmp_path, monkeypatch):
    path = tmp_path / "c.jsonl"
    with begin(path) as campaign:
        campaign.ask()
        before = path.read_bytes()

        def full(fd):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            campaign.tell(1, 0.5)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert list(campaign.pending.index) == [1]
        campaign.tell(1, 0.5)
        path.write_bytes(before)
        with pytest.raises(btl.DataError, match="changed by something else"):
            campaign.tell(task="pbe", inputs={"x": 0.5}, value=1.0)


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "c.jsonl"
    campaign = begin(path)
    with pytest.raises(btl.DataError, match=rf"this process \(pid {os.getpid()}\) holds it already"):
        Campaign.open(path)
    with pytest.raises(btl.DataError, match="holds it already"):
        begin(path)
    campaign.close()
    with pytest.raises(btl.DataError, match="was closed"):
        campaign.ask()
    with pytest.raises(btl.DataError, match="exists already"):
        begin(path)
    Campaign.open(path).close()
    with pytest.raises(btl.DataError, match="no file"):
        Campaign.open(tmp_path / "none.jsonl")
    with pytest.raises(btl.DataError, match="no folder"):
        begin(tmp_path / "none" / "c.jsonl")


# -- asking and telling ---------------------------------------------------------------------------------------------------


def test_the_next_suggestion_is_the_same_after_opening_again(tmp_path):
    path = tmp_path / "c.jsonl"
    with begin(path) as campaign, begin(None) as memory:
        first = campaign.ask(batch=3)
        campaign.tell(2, truth(first["task"][2], first["x"][2]))
        pd.testing.assert_frame_equal(first, memory.ask(batch=3))
        memory.tell(2, truth(first["task"][2], first["x"][2]))
        expected = memory.ask(batch=2)
    with Campaign.open(path) as campaign:
        again = campaign.ask(batch=2)
    pd.testing.assert_frame_equal(again, expected)
    assert list(again.index) == [4, 5]
    assert again["why"].str.len().gt(20).all()


def test_results_come_late_out_of_order_as_failures_and_unasked(tmp_path):
    path = tmp_path / "c.jsonl"
    with begin(path) as campaign:
        chosen = campaign.ask(batch=4)
        assert set(chosen["row"]) <= {f"film {i}" for i in range(9)}
        campaign.tell(3, 0.7, error=0.05, cost=2.0)
        campaign.tell(1, failed="cracked")
        campaign.tell(task="exp", inputs={"x": 0.31}, value=1.2)
        assert list(campaign.pending.index) == [2, 4]
    with Campaign.open(path) as campaign:
        assert list(campaign.pending.index) == [2, 4]
        assert len(campaign.data) == 9
        assert campaign.data.errors[-2] == 0.05
        assert campaign.data.rows[-2] == chosen["row"][3]
        assert campaign.posterior.data.values[-1] == 1.2
        assert campaign.spent == pytest.approx(2.0 + chosen["cost"][1])
        assert campaign.committed == pytest.approx(chosen["cost"][[2, 4]].sum())
        more = campaign.ask(batch=20)
        pairs = list(zip(more["row"], more["task"], strict=True))
        assert len(set(pairs)) == len(pairs)
        assert not set(pairs) & set(zip(chosen["row"], chosen["task"], strict=True))  # failed, pending, measured
        assert "all candidates" in more.attrs["reason"]
        assert len(pairs) + len(chosen) + 7 == 18


def test_what_failed_is_not_tried_again_though_replicates_are_wanted():
    campaign = begin(None, replicates=True)
    first = campaign.ask()
    campaign.tell(1, failed=True)
    for number, own in campaign.ask(batch=6).iterrows():
        assert (own["row"], own["task"]) != (first["row"][1], first["task"][1])
        campaign.tell(number, truth(own["task"], own["x"]))


def test_within_bounds_what_is_near_a_failure_is_not_tried_again():
    campaign = begin(None, candidates={"x": (0.0, 1.0)}, budget=None)
    tried = []
    for number in range(1, 7):
        asked = campaign.ask()
        x, task = asked["x"][number], asked["task"][number]
        assert all(abs(x - old) > 0.05 for old, of in tried if of == task)
        tried.append((x, task))
        campaign.tell(number, failed=True)


def test_costs_of_a_campaign_go_by_labels():
    table = pd.DataFrame({"x": [0.2, 0.5, 0.8]}, index=["a", "b", "c"])
    costs = pd.Series({"c": 3.0, "a": 1.0, "b": 2.0})
    campaign = begin(None, candidates=table, costs={"exp": costs}, budget=None, replicates=False)
    asked = campaign.ask(batch=3)
    assert dict(zip(asked["row"], asked["cost"], strict=True)) == costs.to_dict()


def test_telling_twice(tmp_path):
    with begin(tmp_path / "c.jsonl") as campaign:
        campaign.ask(batch=2)
        with pytest.raises(btl.DataError, match=r"must be a number; got '<0.01'\. Tell the limit itself"):
            campaign.tell(1, "<0.01")
        campaign.tell(1, 0.5)
        before = (tmp_path / "c.jsonl").read_bytes()
        campaign.tell(1, 0.5)
        assert (tmp_path / "c.jsonl").read_bytes() == before
        with pytest.raises(btl.DataError, match=r"told already: value 0.5; now it would be 0.6"):
            campaign.tell(1, 0.6)
        with pytest.raises(btl.DataError, match="told already"):
            campaign.tell(1, failed=True)
        campaign.tell(2, failed=True)
        campaign.tell(2, failed="another reason")
        with pytest.raises(btl.DataError, match="told already: failed"):
            campaign.tell(2, 0.5)


@pytest.mark.parametrize(
    "told, message",
    [
        ({"id": 9, "value": 1.0}, "no suggestion 9. Pending are 1"),
        ({"id": 1}, "Tell a value"),
        ({"id": 1, "value": float("nan")}, "Tell a value"),
        ({"id": 1, "value": 1.0, "failed": True}, "Tell a value"),
        ({"id": 1, "value": "much"}, "value"),
        ({"id": 1, "value": 1.0, "error": -1.0}, "`error` must be a finite positive"),
        ({"id": 1, "value": 1.0, "cost": -1.0}, "`cost` must be a finite number"),
        ({"value": 1.0}, "id of a suggestion, or else"),
        ({"value": 1.0, "task": "exp"}, "id of a suggestion, or else"),
        ({"id": 1, "value": 1.0, "task": "exp"}, "id of a suggestion, or else"),
        ({"id": 1, "value": 1.0, "inputs": {"x": float("inf")}}, "which a journal cannot hold"),
        ({"value": 1.0, "task": "gap", "inputs": {"x": 1.0}}, "`task` must be one of 'pbe', 'exp'; got 'gap'"),
        ({"value": 1.0, "task": "exp", "inputs": {"y": 1.0}}, "x"),
        ({"failed": True, "task": "exp", "inputs": {"y": 1.0}}, "x"),
        ({"value": 1.0, "task": "exp", "inputs": {"x": object()}}, "which a journal cannot hold"),
    ],
)
def test_what_cannot_be_told_leaves_no_trace(tmp_path, told, message):
    with begin(tmp_path / "c.jsonl") as campaign:
        campaign.ask()
        before = (tmp_path / "c.jsonl").read_bytes()
        with pytest.raises(btl.DataError, match=message):
            campaign.tell(**told)
        assert (tmp_path / "c.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"target": "gap"}, "Unknown task 'gap'"),
        ({"target": lambda y: y["exp"]}, "must be the name of a task"),
        ({"costs": {"gap": 1.0}}, "Unknown task 'gap'"),
        ({"costs": {}}, "No candidate is in a task that has a cost"),
        ({"costs": {"exp": -1.0}}, "Costs must be positive"),
        ({"budget": 0.0}, "`budget` must be a positive number"),
        ({"refit_every": 0.5}, "whole number"),
        ({"growth": float("nan")}, "`growth` must be a positive number"),
        ({"model": "GP"}, "Expected a model"),
        ({"goal": "maximise"}, "`goal` must be"),
        ({"score": "luck"}, "`score` must be one of"),
        ({"method": "luck"}, "`method` must be one of"),
        ({"constraints": {"pbe": 3}}, "constraint on task 'pbe' must be"),
        ({"candidates": {"x": (0.0, 1.0)}, "costs": {"exp": "x"}}, "Within bounds"),
        (
            {"candidates": pd.DataFrame({"x": [0.0, 1.0]}, index=[1, 1])},
            "needs a label of its own; these occur more than once: 1",
        ),
        ({"candidates": pd.DataFrame({"x": [0.0, 1.0], "when": pd.Timestamp(0)})}, "Column 'when' of the candidates"),
        ({"candidates": pd.DataFrame({"y": [0.0, 1.0]})}, "x"),
    ],
)
def test_what_cannot_begin(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        begin(tmp_path / "c.jsonl", **options)
    assert not (tmp_path / "c.jsonl").exists()
    with pytest.raises(ValueError, match="at least 1"):
        begin(None).ask(batch=0)


def test_what_was_measured_is_known_however_its_inputs_were_rounded():
    """Were it not, the repetition of a sharp maximum's measurement would be asked for again and again."""
    _, frame = toy()
    x = np.append(frame["x"].to_numpy(), np.nextafter(frame["x"].to_numpy(), -1.0))
    campaign = begin(None, candidates=pd.DataFrame({"x": x}), costs={"exp": 5.0})
    asked = campaign.ask(batch=7)
    assert len(asked) == 7
    assert asked["x"].round(9).nunique() == 7
    assert not asked["x"].round(9).isin([0.0, 1.0]).any()


def test_a_number_that_is_hardly_meant_is_named_when_it_is_told():
    campaign = begin(None, method="variational")
    asked = campaign.ask(2)
    task = asked.loc[1, "task"]
    with pytest.warns(UserWarning, match=rf"Task '{task}': 500 in row .* had a chance of less than one in a million"):
        campaign.tell(1, 500.0)
    assert campaign.history()["value"].dropna().tolist() == [500.0]
    campaign.tell(2, truth(asked.loc[2, "task"], asked.loc[2, "x"]))  # nothing to say


def test_the_budget_holds(capsys):
    campaign = begin(None, budget=13.0)
    chosen = campaign.ask(batch=30)
    assert campaign.committed == chosen["cost"].sum() <= 13.0
    assert campaign.left < 1.0 or "all candidates" in chosen.attrs["reason"]
    assert "30 are suggested" in capsys.readouterr().out
    number = chosen.index[0]
    campaign.tell(number, 0.4, cost=13.0)  # dearer than foreseen
    empty = campaign.ask()
    assert len(empty) == 0
    assert list(empty.columns) == ["row", "task", "score", "gain", "cost", "why"]
    assert "of the budget 0 are left" in empty.attrs["reason"]
    events = len(campaign._ledger.events)
    campaign.ask()
    assert len(campaign._ledger.events) == events


def test_a_budget_that_was_overspent_is_told_as_such():
    campaign = begin(None, budget=13.0)
    (number,) = campaign.ask().index
    campaign.tell(number, 0.4, cost=20.0)
    assert "overspent by 7" in campaign.ask().attrs["reason"]


def test_only_what_is_affordable_is_suggested():
    campaign = begin(None, budget=4.0)  # the target costs 5
    assert set(campaign.ask(batch=2)["task"]) == {"pbe"}
    dear = begin(None, budget=4.0, score="expected_improvement").ask()
    assert len(dear) == 0
    _, frame = toy()
    priced = frame[["x"]].assign(hours=np.where(frame["x"] < 0.5, 1.0, 100.0))
    campaign = begin(None, candidates=priced, costs={"exp": "hours"}, budget=50.0)
    assert (campaign.ask(batch=3)["x"] < 0.5).all()
    each = begin(
        None, candidates={"exp": frame[["x"]], "pbe": frame[["x"]][3:6]}, costs={"exp": np.arange(1.0, 10.0), "pbe": 1}
    )
    chosen = each.ask(batch=4)
    assert (chosen["cost"][chosen["task"] == "exp"] == 1 + 8 * chosen["x"][chosen["task"] == "exp"]).all()


@pytest.mark.parametrize(
    "every, growth, due", [(2, None, [0, 2, 2, 4]), (None, 0.3, [0, 0, 3, 3]), (None, None, [0] * 4)]
)
def test_refits_are_due_by_number_and_by_growth(every, growth, due):
    campaign, found = begin(None, refit_every=every, growth=growth), []
    for x in (0.1, 0.3, 0.5, 0.7):
        campaign.tell(task="exp", inputs={"x": x}, value=truth("exp", x))
        found.append(campaign._ledger.fitted)
    assert found == due
    assert len(campaign.posterior.data) == 11


def test_history_and_picture():
    campaign = begin(None, goal="minimize", budget=100.0)
    campaign.ask(batch=2)
    campaign.tell(task="exp", inputs={"x": 0.9}, value=-5.0, cost=3.0)
    campaign.tell(2, failed="cracked")
    campaign.tell(task="exp", inputs={"x": 0.91}, value=-4.0)
    table = campaign.history()
    assert list(table.columns) == [
        "time",
        "event",
        "id",
        "row",
        "task",
        "x",
        "value",
        "error",
        "reason",
        "cost",
        "spent",
        "best",
    ]
    assert list(table["event"]) == ["asked", "asked", "told", "failed", "told"]
    start = min(truth("exp", 0.0), truth("exp", 1.0))
    assert list(table["best"]) == [start, start, -5.0, -5.0, -5.0]
    assert list(table["spent"]) == pytest.approx([0, 0, 3, 3 + table["cost"][1], 3 + table["cost"][1]])
    assert table["reason"][3] == "cracked"
    assert table["time"].is_monotonic_increasing
    axes = campaign.plot()
    assert axes.get_ylabel() == "best exp (eV)"
    assert campaign.plot(axes) is axes
    assert "minimize exp; 2 results, 1 failed, 1 pending" in repr(campaign)
    learner = begin(None, goal="learn")
    learner.ask()
    assert learner.history()["best"].isna().all()
    with pytest.raises(btl.DataError, match="no best value"):
        learner.plot()
    assert begin(None).history().empty


@pytest.mark.parametrize("wanted", ["yes", ["yes"], ["yes", "maybe"]])
def test_the_best_does_not_count_where_a_constraint_is_known_not_to_hold(wanted, tmp_path):
    data = btl.TaskData.from_wide(
        pd.DataFrame({"x": [0.0, 0.2, 0.4, 0.9], "y": [1.0, 3.0, 2.0, None], "stable": ["yes", "no", None, "maybe"]}),
        inputs=["x"], tasks=["y", "stable"],
    )  # fmt: skip
    campaign = Campaign.create(
        tmp_path / "c", btl.SingleTask(), data, pd.DataFrame({"x": [0.6, 0.8]}), target="y", constraints={"stable": wanted},
        costs={"y": 1.0, "stable": 1.0}, method="map",
    )  # fmt: skip
    campaign.close()
    campaign = Campaign.open(tmp_path / "c")
    assert campaign.history()["best"].empty
    for name, x, value in (
        ("y", 0.6, 5.0), ("stable", 0.6, "no"), ("stable", 0.8, "no"), ("y", 0.8, 9.0), ("stable", 0.4, "no"),
        ("stable", 0.0, "no" if wanted != ["yes", "maybe"] else "maybe"),
    ):  # fmt: skip
        campaign.tell(task=name, inputs={"x": x}, value=value)
    # 3.0 at 0.2 is known to be unstable from the start, so 2.0 leads until 5.0 does, until that is known to be unstable too.
    last = 1.0 if "maybe" in wanted else np.nan
    np.testing.assert_array_equal(campaign.history()["best"], [5.0, 2.0, 2.0, 2.0, 1.0, last])
    assert campaign.plot().get_lines()[0].get_ydata()[0] == 2.0


# -- what is written ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Nothing on offer")
def test_everything_survives_the_file(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(14), "phase": ["fcc", "bcc"] * 7})
    frame["gap"] = np.maximum(frame["x"] - 0.3, 0.0)
    frame["stable"] = np.where(frame["x"] > 0.5, "yes", "no")
    likelihoods = {"gap": btl.Censored(lower="lod")}
    data = btl.TaskData.from_wide(
        frame.assign(lod=0.0), inputs=["x", "phase"], tasks=["gap", "stable"], likelihoods=likelihoods
    )
    path = tmp_path / "c.jsonl"
    new = frame[["x", "phase"]].assign(lod=0.1)
    with Campaign.create(path, btl.MultiTask(rank=1), data, new, target="gap", costs={"gap": 2, "stable": 1},
                         constraints={"stable": "yes"}, region=new[:5], method="map") as campaign:  # fmt: skip
        campaign.tell(task="stable", inputs={"x": 0.2, "phase": "fcc"}, value="no")
        campaign.tell(task="gap", inputs={"x": 0.2, "phase": "bcc", "lod": 0.05}, value=0.05)
        with pytest.raises(btl.DataError, match="its classes are 'no', 'yes'"):
            campaign.tell(task="stable", inputs={"x": 0.2, "phase": "fcc"}, value="maybe")
        with pytest.raises(btl.DataError, match="classes, which have no errors"):
            campaign.tell(task="stable", inputs={"x": 0.2, "phase": "fcc"}, value="no", error=0.1)
        before = campaign.data
    with Campaign.open(path) as campaign:
        after = campaign.data
        for name in ("x", "task_index", "values", "errors", "details"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
        assert (after.inputs, after.tasks) == (before.inputs, before.tasks)
        np.testing.assert_array_equal(after.details[-1], [0.05, np.nan])
        assert campaign._ledger.constraints == {"stable": "yes"}
        chosen = campaign.ask(batch=4)
        assert len(chosen) == 4
        for number, own in chosen.iterrows():  # the limits came with the candidates, and may be told
            campaign.tell(number, "no" if own["task"] == "stable" else 0.2, inputs={"x": 0.77, "lod": 0.2})
        assert (campaign.data.x[-4:, 0] == 0.77).all()
        assert set(campaign.data.details[-4:, 0][campaign.data.task_index[-4:] == 0]) <= {0.2}
    for line in path.read_text().splitlines():
        assert json.loads(line)["event"] in ("create", "ask", "tell")


def test_rows_of_unknown_error_beside_known_ones_are_taken_in_by_a_refit():
    _, frame = toy()
    frame["err"] = np.where(frame["exp"].notna(), 0.1, np.nan)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["pbe", "exp"], errors={"exp": "err"})
    campaign = Campaign.create(None, MODEL, data, frame[["x"]], target="exp", costs=COSTS, method="map")
    campaign.tell(task="exp", inputs={"x": 0.4}, value=0.9)
    assert len(campaign.ask(batch=2)) == 2


def test_numbers_that_json_lacks_come_back():
    data, _ = toy()
    odd = np.array([[np.nan, np.inf], [-np.inf, 0.1 + 0.2]] * 4)[:7]
    odd = dataclasses.replace(data, details=odd, errors=np.full(7, np.nan))
    back = plain.to_data(json.loads(json.dumps(plain.of_data(odd), allow_nan=False)))
    for name in plain.ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(odd, name))


def test_formulas(tmp_path):
    names = ["NaCl", "KCl", "MgO", "CaO", "LiF", "NaF", "KBr"]
    frame = pd.DataFrame({"formula": names, "gap": [8.5, 8.4, 7.8, 7.0, np.nan, np.nan, np.nan]})
    data = btl.TaskData.from_wide(
        frame, inputs=["formula"], tasks=["gap"], features={"formula": btl.ElementFractions()}
    )
    path = tmp_path / "c.jsonl"
    with Campaign.create(
        path, btl.SingleTask(), data, frame[["formula"]], target="gap", method="map", replicates=False
    ) as campaign:
        first = campaign.ask()
        assert first["formula"][1] in names[4:]
        campaign.tell(1, 9.0)
    with Campaign.open(path) as campaign:
        assert campaign.data.features == data.features
        assert set(campaign.ask(batch=9)["formula"]) == set(names[4:]) - set(first["formula"])
        assert len(campaign.history()) == 4


def test_bounds_and_foreign_kernels(tmp_path):
    campaign = begin(tmp_path / "b.jsonl", candidates={"x": (0.0, 1.0)}, budget=8.0)
    first = campaign.ask(batch=3)
    assert first["x"].between(0, 1).all()
    assert first["row"].isna().all()
    campaign.tell(1, 0.5)
    campaign.close()
    with Campaign.open(tmp_path / "b.jsonl") as campaign:
        assert campaign.data.rows[-1] == "told 1"
    import gpytorch

    foreign = btl.MultiTask(kernel=btl.GPyTorchKernel(gpytorch.kernels.MaternKernel(nu=1.5)))
    begin(tmp_path / "f.jsonl", model=foreign).close()
    with pytest.raises(btl.DataError, match="an object of your own"):
        Campaign.open(tmp_path / "f.jsonl")
    Campaign.open(tmp_path / "f.jsonl", model=foreign).close()


# -- replays --------------------------------------------------------------------------------------------------------------


def finished():
    x = np.linspace(0, 1, 25)
    frame = pd.DataFrame({"x": x, "cheap": np.sin(9 * x), "dear": np.sin(9 * x) + 0.3 * x})
    return btl.TaskData.from_wide(frame, inputs=["x"], tasks=["cheap", "dear"])


def test_replay_finds_the_best():
    options = {"target": "dear", "costs": {"cheap": 1, "dear": np.full(25, 10.0)}, "initial": {"cheap": 4, "dear": 2}}
    table = replay(finished(), btl.Difference.chain("cheap", "dear"), seeds=[0, 1], budget=150.0, **options)
    assert list(table.columns) == ["strategy", "seed", "step", "task", "row", "cost", "value", "best", "regret"]
    assert table["cost"].max() <= 150.0 + 24.0
    start = table[table["step"] == 0].groupby("strategy")["cost"].first()
    assert start.to_dict() == {"bayestl": 24.0, "target-only": 24.0, "single-task": 20.0, "random": 20.0}
    assert (table.groupby(["strategy", "seed"])["regret"].diff().fillna(0) <= 0).all()
    assert set(table["task"][table["strategy"] != "bayestl"].dropna()) == {"dear"}
    cost = table[(table["strategy"] == "bayestl") & (table["regret"] == 0)].groupby("seed")["cost"].min()
    assert len(cost) == 2
    assert (cost < 100.0).all()  # in random order the best of 23 is expected after 12 more, at 140
    again = replay(finished(), btl.Difference.chain("cheap", "dear"), seeds=[1], budget=150.0, **options)
    pd.testing.assert_frame_equal(again, table[table["seed"] == 1].reset_index(drop=True), check_dtype=False)
    axes = btl.plots.plot_replay(table)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(table["strategy"].unique())
    with pytest.raises(btl.DataError, match="got 'rmse'"):
        btl.plots.plot_replay(table, "rmse")


def test_replay_learns():
    table = replay(finished(), btl.MultiTask(), target="dear", costs={"cheap": 1, "dear": 10}, goal="learn", steps=4, every=2,
                   initial={"cheap": "all", "dear": 2}, seeds=[0], strategies=["target-only", "random"])  # fmt: skip
    assert table["rmse"].notna().tolist() == [True, False, True, False, True] * 2
    last = table.groupby("strategy")["rmse"].last()
    assert last["target-only"] < last["random"]


def test_replay_refuses():
    options = {"target": "dear", "costs": {"dear": 1.0}, "initial": {"dear": 2}}
    with pytest.raises(ValueError, match="`strategies` must be of"):
        replay(finished(), btl.MultiTask(), strategies=["luck"], **options)
    with pytest.raises(ValueError, match="must have one of the target"):
        replay(finished(), btl.MultiTask(), **options | {"costs": {"cheap": 1.0}})
    with pytest.raises(btl.DataError, match="leaves no observation of 'dear'"):
        replay(finished(), btl.MultiTask(), **options | {"initial": {"cheap": 2}})


def test_replays_spend_no_more_than_they_have_and_measure_nothing_twice():
    x = np.linspace(0, 1, 12)
    frame = pd.DataFrame({"x": x, "cheap": np.sin(5 * x), "dear": np.sin(5 * x) + 0.2 * x})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["cheap", "dear"])
    prices = np.where(np.arange(12) % 2 == 0, 60.0, 10.0)
    for batch in (1, 2, 6):
        done = replay(data, MODEL_OF_DEAR, target="dear", costs={"dear": prices}, initial={"cheap": "all", "dear": 2},
                      seeds=range(4), budget=55.0, batch=batch, strategies=["random"])  # fmt: skip
        for _, own in done.groupby("seed"):
            assert own["cost"].iloc[-1] - own["cost"].iloc[0] <= 55.0
            assert own["row"].dropna().is_unique
    done = replay(data, MODEL_OF_DEAR, target="dear", costs={"dear": 1}, initial={"cheap": "all", "dear": 2}, seeds=[0],
                  steps=3, batch=4, goal="learn", strategies=["random"])  # fmt: skip
    assert done["step"].max() == 3


def test_replays_keep_one_observation_of_the_same_inputs_and_say_so():
    x = np.repeat(np.linspace(0, 1, 6), 2)
    frame = pd.DataFrame({"x": x, "y": np.sin(5 * x) + np.tile([0.0, 1.0], 6)})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
    with pytest.warns(UserWarning, match="6 observations have the inputs of an earlier one"):
        done = replay(data, btl.SingleTask(), target="y", costs={"y": 1}, initial={"y": 2}, seeds=[0],
                      strategies=["random", "single-task"])  # fmt: skip
    assert (done.groupby("strategy")["regret"].min() == 0).all()


def test_replays_know_limits_and_exposures():
    rng, x = np.random.default_rng(0), np.linspace(0, 1, 14)
    frame = pd.DataFrame({"x": x, "hours": rng.uniform(1, 3, 14), "s": np.sin(4 * x), "n": rng.poisson(3 + 3 * x)})
    data = btl.TaskData.from_wide(
        frame, inputs=["x"], tasks=["s", "n"], likelihoods={"n": btl.Poisson(exposure="hours")}
    )
    done = replay(
        data, btl.MultiTask(), target="n", costs={"s": 1, "n": 3}, initial={"s": 5, "n": 4}, steps=2, seeds=[0]
    )
    assert len(done) >= 4


def test_a_correction_of_the_value_alone_leaves_the_rest_as_it_was_told():
    campaign = begin(None)
    campaign.ask(batch=2)
    campaign.tell(1, 0.9, inputs={"x": 0.515}, error=0.1, cost=7.0)
    campaign.tell(1, 0.7, correct=True)
    assert (campaign.data.x[-1], campaign.data.values[-1], campaign.data.errors[-1]) == (0.515, 0.7, 0.1)
    assert campaign.spent == 7.0
    campaign.tell(1, 0.7, inputs={"x": 0.6}, error=0.2, correct=True)
    assert (campaign.data.x[-1], campaign.data.errors[-1]) == (0.6, 0.2)
    campaign.tell(1, 0.7, error=float("nan"), correct=True)
    assert np.isnan(campaign.data.errors[-1])
    with pytest.raises(btl.DataError, match="positive"):
        campaign.tell(2, 0.7, error=float("nan"))


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_measurements_that_were_not_suggested_have_labels_of_their_own():
    campaign = begin(None, refit_every=2)
    for x in (0.21, 0.47, 0.93):
        campaign.tell(task="exp", inputs={"x": x}, value=1.0)
    assert campaign.posterior.data.rows.tolist() == campaign.data.rows.tolist()
    assert len(set(campaign.data.rows[-3:])) == 3


def test_a_replay_that_learns_knows_exposures():
    x, hours = np.linspace(0, 1, 30), np.where(np.arange(30) % 2, 10.0, 1.0)
    frame = pd.DataFrame({"x": x, "hours": hours, "s": np.sin(5 * x)})
    frame["n"] = np.random.default_rng(18).poisson(np.exp(1 + frame["s"]) * hours)
    data = btl.TaskData.from_wide(
        frame, inputs=["x"], tasks=["s", "n"], likelihoods={"n": btl.Poisson(exposure="hours")}
    )
    done = replay(
        data, btl.MultiTask(), target="n", costs={"s": 1, "n": 1}, initial={"s": "all", "n": 12}, goal="learn",
        strategies=["target-only"], seeds=[0], steps=1,
    )  # fmt: skip
    assert (done["rmse"] < 0.5 * frame["n"].std()).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": {"above": 0.5}}, "goal"),
        ({"initial": {"dear": -2, "cheap": 3}}, "initial"),
        ({"initial": {"dear": 3}}, "leaves no observation of 'cheap'"),
        ({"costs": {"dear": [1.0, 2.0]}}, "one for each of its 12 observations"),
        ({"constraints": {"cheap": (None, 0.5)}}, "takes no `constraints`"),
    ],
)
def test_what_cannot_be_replayed(options, message):
    x = np.linspace(0, 1, 12)
    frame = pd.DataFrame({"x": x, "cheap": np.sin(5 * x), "dear": np.sin(5 * x) + 0.2 * x})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["cheap", "dear"])
    options = {"costs": {"dear": 1}, "initial": {"cheap": 3, "dear": 2}, **options}
    with pytest.raises((ValueError, btl.DataError), match=message):
        replay(data, MODEL_OF_DEAR, target="dear", seeds=[0], steps=1, **options)


def test_a_campaign_ends_where_the_last_measurement_cannot_be_paid(capsys):
    """Two tolerances let what one of them offered be refused by the other, for ever."""
    for budget, cost in ((1e6, 5e-4), (1000.0, 1e-6), (100.0, 1e-8)):
        campaign = begin(None, costs={"pbe": cost, "exp": 1e5 * budget}, budget=budget)
        campaign.tell(None, 0.3, task="exp", inputs={"x": 0.3}, cost=budget - cost / 2)
        assert len(campaign.ask(2)) == 0
        assert "Nothing is suggested" in capsys.readouterr().out


def test_telling_what_cannot_be_meant(tmp_path):
    campaign = begin(None)
    first = campaign.ask(1)
    number = int(first.index[0])
    for options in ({"value": 0.5, "failed": None}, {"value": [0.5]}, {"value": pd.NA}, {"value": 0.5, "cost": "a"}):
        with pytest.raises(btl.DataError):
            campaign.tell(number, **options)
    campaign.tell(number, 0.5, failed=np.False_, cost=2.0)
    campaign.tell(number, 0.5)  # the same again
    with pytest.raises(btl.DataError, match="told already"):
        campaign.tell(number, 0.5, cost=3.0)
    assert campaign.spent == 2.0
    assert len(campaign.history().query("event == 'failed'")) == 0
    campaign.tell(float(number), 0.5)  # as a row of a table gives it
    for strange in (True, number + 0.5):
        with pytest.raises(btl.DataError, match="whole number"):
            campaign.tell(strange, 0.5)
    with pytest.raises(btl.DataError, match="'zz', which are none"):
        campaign.tell(task="exp", inputs={"x": 0.5, "zz": 3.0}, value=1.0)
    with pytest.raises(ValueError, match="no candidate offers"):
        begin(None, costs={"pbe": 1.0}, score="expected_improvement")
    with pytest.raises(ValueError, match="finite number"):
        begin(None, constraints={"pbe": (float("nan"), 1.0)})
    with pytest.raises(ValueError, match="whole number"):
        begin(None, refit_every=0.5)


def test_a_campaign_is_extended(tmp_path):
    """More budget, then other candidates and costs: on disk, as all else, and from then on."""
    path = tmp_path / "c.jsonl"
    with begin(path, budget=10.0, costs={"exp": 5.0}) as campaign:
        for number in campaign.ask(batch=4).index:
            campaign.tell(int(number), 0.5)
        assert len(campaign.ask()) == 0
        with pytest.raises(ValueError, match="what shall be otherwise"):
            campaign.extend()
        with pytest.raises(ValueError, match="positive"):
            campaign.extend(costs={"exp": -1.0})
        assert len(campaign._ledger.events) == 4  # refused before it was written
        campaign.extend(budget=20.0)
        assert campaign.left == 10.0
        assert len(campaign.ask()) == 1
    with btl.Campaign.open(path) as campaign:
        assert campaign.left == 5.0
        campaign.extend(candidates={"x": [0.123, 0.456]}, costs={"exp": 2.0})
        chosen = campaign.ask(batch=2)
        assert set(chosen["x"]) <= {0.123, 0.456}
        assert (chosen["cost"] == 2.0).all()
        assert len(campaign.pending) == 3
        told = campaign.history()
        assert list(told["event"]) == ["asked"] * 2 + ["told"] * 2 + ["asked"] * 3
        asked = story(campaign)
    with btl.Campaign.open(path) as campaign:
        assert story(campaign) == asked


def test_a_file_that_was_moved_or_rewritten_is_named(tmp_path):
    with begin(tmp_path / "c.jsonl") as campaign:
        number = int(campaign.ask().index[0])
        (tmp_path / "c.jsonl").rename(tmp_path / "d.jsonl")
        with pytest.raises(btl.DataError, match="Move it back"):
            campaign.tell(number, 0.5)
        (tmp_path / "d.jsonl").rename(tmp_path / "c.jsonl")
        campaign.tell(number, 0.5)
    path = tmp_path / "c.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(btl.DataError, match="as on Windows"):
        btl.Campaign.open(path)


if __name__ == "__main__":
    print(json.dumps(murders(Path(sys.argv[1]), int(sys.argv[2]))))


def test_what_was_told_by_mistake_is_corrected(tmp_path):
    """As if the right thing had been told at once, but for the order of what was told."""
    path, other = tmp_path / "c.jsonl", tmp_path / "other.jsonl"
    with begin(path) as campaign, begin(other) as right:
        for own in (campaign, right):
            own.ask(batch=3)
        with pytest.raises(btl.DataError, match="nothing to correct"):
            campaign.tell(1, 0.5, correct=True)
        campaign.tell(1, 80.0)
        campaign.tell(task="exp", inputs={"x": 0.31}, value=12.0)
        campaign.tell(2, failed="cracked")
        assert campaign.history()["best"].iloc[-1] >= 12.0
        with pytest.raises(btl.DataError, match="correct=True"):
            campaign.tell(1, 0.5)
        campaign.tell(1, 0.5, correct=True)
        campaign.tell(task="exp", inputs={"x": 0.31}, value=1.2, correct=True)
        campaign.tell(2, 0.7, correct=True)
        right.tell(1, 0.5)
        right.tell(task="exp", inputs={"x": 0.31}, value=1.2)
        right.tell(2, 0.7)
        expected = right.posterior.predict({"x": [0.1, 0.6]})
        assert right.spent == campaign.spent
        assert campaign.posterior.predict({"x": [0.1, 0.6]}).equals(expected)
        after = campaign.history()
        assert after["event"].tolist() == ["asked"] * 3 + ["withdrawn"] * 3 + ["told"] * 3
        assert after["best"].iloc[-1] == right.history()["best"].iloc[-1]
    with Campaign.open(path) as campaign:
        assert campaign.posterior.predict({"x": [0.1, 0.6]}).equals(expected)
        pd.testing.assert_frame_equal(campaign.history(), after)


def test_candidates_alike_are_asked_for_once():
    frame = pd.DataFrame({"x": [0.2, 0.2, 0.2]}, index=["a", "b", "c"])
    campaign = begin(None, candidates=frame)
    assert len(campaign.ask(batch=5)) == 2  # in either task
    assert len(campaign.ask(batch=1)) == 0


@pytest.mark.parametrize(
    "option, message",
    [
        ({"seeds": 2}, r"Write strategies=\["),
        ({"strategies": "bayestl"}, r"Write strategies=\["),
        ({"initial": {"pbe": 2, "exp": 90}}, "asks for 90 observations of task 'exp', which has 2"),
    ],
)
def test_what_a_replay_cannot_be_asked(option, message):
    data, _ = toy()
    with pytest.raises(ValueError, match=message):
        replay(data, MODEL, target="exp", costs=COSTS, **({"initial": {"pbe": 2, "exp": 2}} | option))


def test_counts_are_compared_by_their_rates():
    frame = pd.DataFrame(
        {"x": np.linspace(0, 1, 8), "area": 4.0, "k": [1.0, 2, 3, 40, 8, 6, 3, 2]}, index=list("abcdefgh")
    )
    laws = {"k": btl.Poisson(exposure="area")}
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["k"], likelihoods=laws)
    new = pd.DataFrame({"x": np.linspace(0, 1, 21), "area": 1.0})
    campaign = Campaign.create(None, btl.SingleTask(), data, new, target="k", method="map")
    own = campaign.ask(batch=2).index
    with pytest.raises(btl.DataError, match="observed as counts, which have no errors"):
        campaign.tell(int(own[0]), 3, error=1.0)
    campaign.tell(int(own[0]), 3)
    campaign.tell(int(own[1]), 12)  # fewer than 40, of a quarter of the area
    assert campaign.history()["best"].iloc[-2:].tolist() == [10.0, 12.0]
    line = next(line for line in campaign.plot().lines if line.get_marker() == "o")
    assert line.get_ydata().tolist() == [3.0, 12.0]


def test_limits_that_differ_from_row_to_row_are_asked_for():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 8), "lod": 0.1}).assign(y=lambda t: np.sin(5 * t["x"]))
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Censored(lower="lod")})
    campaign = Campaign.create(
        None, btl.SingleTask(), data, pd.DataFrame({"x": np.linspace(0, 1, 21)}), target="y", method="map"
    )
    with pytest.warns(UserWarning, match="no column 'lod'"):
        (own,) = campaign.ask().index
    with pytest.raises(btl.DataError, match=r"needs 'lod'. Tell it too: tell\(..., inputs=\{'lod': ...\}\)"):
        campaign.tell(int(own), 0.05)
    campaign.tell(int(own), 0.05, inputs={"lod": 0.1})
    assert campaign.data.values[-1] == 0.1
