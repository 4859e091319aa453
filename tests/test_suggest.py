"""Acquisition scores against quadrature, Monte Carlo and brute force; suggestions against their laws."""

import dataclasses
import math
import types
import warnings

import mpmath
import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import scipy.stats
import torch

import bayestl as btl
from bayestl.condense import condense
from bayestl.decide import acquisition as acq
from bayestl.decide import search
from bayestl.decide import suggest as suggest_module
from bayestl.decide.goals import OF_TARGET, SCORES
from bayestl.decide.judge import Judge
from bayestl.decide.lookahead import joint_of, worlds
from bayestl.decide.objective import objective_of
from bayestl.decide.suggest import suggest
from bayestl.scaling import Pairs

COSTS = {"cheap": 1.0, "exp": 5.0}


def frame_of(seed=0, n=26, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 2))
    f = np.sin(5 * x[:, 0]) + x[:, 1]
    frame = pd.DataFrame(x, columns=["x0", "x1"])
    frame["cheap"] = f + 0.05 * rng.standard_normal(n)
    frame["exp"] = scale * (1.2 * f + 0.3 * x[:, 1] + 0.1 * rng.standard_normal(n)) + shift
    frame.loc[frame.index[::3], "cheap"] = np.nan
    frame.loc[frame.index[8:], "exp"] = np.nan
    return frame


def posterior_of(scale=1.0, shift=0.0, method="map"):
    data = btl.TaskData.from_wide(frame_of(scale=scale, shift=shift), inputs=["x0", "x1"], tasks=["cheap", "exp"],
                                  units={"cheap": "eV", "exp": "eV" if scale == 1 else "meV"})  # fmt: skip
    return btl.fit(btl.MultiTask(), data, seed=0, method=method)


def grid(n=60, seed=1):
    return pd.DataFrame(
        np.random.default_rng(seed).random((n, 2)), columns=["x0", "x1"], index=[f"c{i}" for i in range(n)]
    )


@pytest.fixture(scope="module")
def posterior():
    return posterior_of()


@pytest.fixture(scope="module")
def draws():
    """Several draws of theta."""
    return posterior_of(method="variational")


# -- closed forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [-1e4, -101.0, -99.0, -30.0, -5.0, -1.001, -0.999, 0.0, 3.0, 50.0])
def test_log_improvement_is_exact(z):
    # h(z) = phi(z) int t exp(z t - t^2 / 2) dt, with t = s / max(1, -z)
    width = max(1.0, -z)
    upper = 60.0 if z < 0 else 12.0 + z
    points = None if z < 1 else [z]
    value, _ = scipy.integrate.quad(
        lambda s: s * math.exp(z * s / width - 0.5 * (s / width) ** 2 - (0.5 * z * z if z > 0 else 0)) / width**2, 0, upper,
        epsabs=0, epsrel=1e-12, limit=400, points=points,
    )  # fmt: skip
    expected = math.log(value) - 0.5 * math.log(2 * math.pi) - (0.5 * z * z if z <= 0 else 0)
    assert acq.log_improvement(torch.tensor(z, dtype=torch.float64)).item() == pytest.approx(
        expected, rel=1e-11, abs=1e-10
    )


def test_improvement_has_finite_gradients_everywhere():
    z = torch.tensor([-1e8, -200.0, -100.0, -20.0, -1.0, 0.0, 40.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(acq.log_improvement(z).sum(), z)
    assert slope.isfinite().all()
    assert (slope > 0).all()


def normals(count=400_001):
    return torch.special.ndtri((torch.arange(count).double() + 0.5) / count)


def test_expected_improvement_and_approach_by_quadrature():
    z = normals()
    m, s, best = 0.3, 0.7, 0.9
    t = [torch.tensor(v).double() for v in (m, s, best)]
    assert acq.log_expected_improvement(*t).exp().item() == pytest.approx(
        (m + s * z - best).clamp_min(0).mean().item(), rel=1e-4
    )
    assert acq.log_probability_of_improvement(*t).exp().item() == pytest.approx(
        (m + s * z > best).double().mean().item(), rel=1e-4
    )
    for d in (0.4, -2.5):
        off = (d + s * z).abs()
        t[0] = torch.tensor(d).double()
        assert acq.log_expected_approach(*t).exp().item() == pytest.approx(
            (best - off).clamp_min(0).mean().item(), rel=1e-3
        )
        assert acq.log_probability_of_approach(*t).exp().item() == pytest.approx(
            (off < best).double().mean().item(), rel=1e-3
        )
        assert acq.expected_distance(t[0], t[1] ** 2).item() == pytest.approx(off.mean().item(), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_knowledge_gradient_by_quadrature(seed):
    g = torch.Generator().manual_seed(seed)
    mean, slope = torch.randn(2, 6, generator=g, dtype=torch.float64)
    slope[1], mean[2], slope[2] = slope[0], mean[3], slope[3]  # parallel and repeated lines
    brute = (mean + slope * normals()[:, None]).amax(-1).mean() - mean.max()
    assert acq.log_knowledge_gradient(mean, slope).exp().item() == pytest.approx(brute.item(), rel=1e-4)
    both = acq.log_knowledge_gradient(mean.expand(3, 5, 6), slope.expand(5, 6))
    assert both.shape == (3, 5)
    moved = acq.log_knowledge_gradient(
        mean + 7.0, slope - 3.0
    )  # neither a constant nor a common slope changes anything
    assert torch.allclose(both, moved, rtol=1e-9)


def test_knowledge_gradient_is_expected_improvement_beside_a_certain_point():
    for m, s, best in [(0.0, 1.0, 0.5), (-3.0, 0.2, 0.0), (-40.0, 1.0, 0.0)]:
        lines = torch.tensor([best, m]).double(), torch.tensor([0.0, s]).double()
        ei = acq.log_expected_improvement(*(torch.tensor(v).double() for v in (m, s, best)))
        assert acq.log_knowledge_gradient(*lines).item() == pytest.approx(ei.item(), rel=1e-10)
    nothing = acq.log_knowledge_gradient(torch.zeros(3).double(), torch.ones(3).double())
    assert nothing.item() < -600


def test_approach_gradient_by_quadrature():
    g = torch.Generator().manual_seed(0)
    distance = torch.randn(4, generator=g, dtype=torch.float64)
    variance = 0.3 + torch.rand(4, generator=g, dtype=torch.float64)
    slope = 0.9 * variance.sqrt() * torch.tensor([1.0, -0.5, 0.3, 0.8])
    z = normals(20_001)[:, None]
    later = acq.expected_distance(distance + slope * z, variance - slope**2).amin(-1).mean()
    brute = acq.expected_distance(distance, variance).min() - later
    assert acq.log_approach_gradient(distance, variance, slope).exp().item() == pytest.approx(brute.item(), rel=0.03)


@pytest.mark.parametrize(
    ("distance", "variance", "slope"),
    [([0.1, 0.3], [1e-4, 0.25], [0.0, 0.499]), ([0.1, 1.0], [1e-4, 0.25], [0.0, 0.499])],
)
def test_approach_gradient_of_a_measurement_that_tells_nearly_all(distance, variance, slope):
    """The best point changes at kinks: thirty-two Gauss-Hermite nodes saw nothing of the first gain, and twice the second.

    Sixteen draws, as `suggest` takes, each with steps of its own.
    """
    d, v, s = (torch.tensor(x).double() for x in (distance, variance, slope))
    z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    weight = torch.softmax(-0.5 * z.square(), 0)
    after = acq.expected_distance(d + s * z[:, None], v - s.square())
    gain = (weight * (after[:, acq.expected_distance(d, v).argmin()] - after.amin(-1))).sum()
    found = acq.average(acq.log_approach_gradient(*(a.expand(16, -1) for a in (d, v, s))))
    assert found.exp().item() == pytest.approx(gain.item(), rel=0.02)


def test_approach_without_a_spread_is_no_nan():
    far, none, best = torch.tensor([2e4]).double(), torch.zeros(1).double(), torch.ones(1).double()
    assert acq.log_expected_approach(far, none, best).item() < -600
    assert acq.log_probability_of_approach(far, none, best).item() < -600


def test_level_reduction_by_monte_carlo():
    mean, variance, slope, level = (torch.tensor([v]).double() for v in (0.4, 1.3, 0.8, 0.0))
    later = scipy.stats.norm.cdf(((mean + slope * normals()) / (variance - slope**2).sqrt()).numpy())
    now = scipy.stats.norm.cdf((mean / variance.sqrt()).numpy())
    brute = (now * (1 - now)).mean() - (later * (1 - later)).mean()
    assert acq.log_level_reduction(mean, variance, slope, level).exp().item() == pytest.approx(brute, rel=1e-4)


def test_information_is_that_of_normal_vectors():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6))
    k = a @ a.T + 0.1 * np.eye(6)
    joint, own, cross = k[:4, :4], k[4:, 4:], k[:4, 4:]
    value = 0.5 * np.log(np.linalg.det(joint) * np.linalg.det(own) / np.linalg.det(k))
    t = [torch.from_numpy(v)[None, None] for v in (cross, own)]
    found = acq.log_information(*t, torch.linalg.cholesky(torch.from_numpy(joint))[None])
    assert found.exp().item() == pytest.approx(value, rel=1e-9)


# -- beliefs against conditioning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", [-60.0, -29.0, -3.0, 0.0, 1.5, 6.0, 45.0])
@pytest.mark.parametrize("told", [0.3, 0.999])
def test_information_about_the_maximum_is_that_of_truncated_normals(g, told):
    mean, std = 0.7, 2.5
    found = acq.log_max_value_information(
        *torch.tensor([[[mean]], [[std]], [[told]], [[mean + g * std]]]).double()
    ).item()
    with mpmath.workdps(60):
        r = mpmath.npdf(g) / mpmath.ncdf(g)
        assert found == pytest.approx(float(mpmath.log(-mpmath.log1p(-told * r * (g + r)) / 2)), rel=1e-5)
    if told == 0.999 and -10 < g < 6:  # a lower bound of what the exact value would tell
        exact = scipy.stats.norm.entropy() - scipy.stats.truncnorm(-40.0, g).entropy()
        assert 0 < np.exp(found) < exact


def test_given_is_conditioning(posterior):
    """The law after an imagined observation is that of a posterior which has been told that value."""
    problem, new = posterior._problem, grid(5)
    x = posterior._inputs(new)[1]
    theta, found = worlds(posterior, 2, [], 0)
    none = Pairs(x[:0], torch.empty(0, dtype=torch.int64))
    joint = joint_of(problem, found, x, [0, 1], none, 1)
    noise = problem.future_noise_variance(theta, 0)[..., None]
    z = torch.tensor([[0.7], [0.7]]).double()
    after = joint.given([4], noise, z)  # the first task at the third candidate
    y = joint.mean[0, 4] + 0.7 * (joint.cov[0, 4, 4] + noise[0, 0, 0]).sqrt()
    value = float(posterior.scaling.location[0] + posterior.scaling.scale[0] * y)
    row = new.iloc[[2]].assign(cheap=value)
    more = btl.TaskData.from_wide(row, inputs=["x0", "x1"], tasks=["cheap"], units={"cheap": "eV"})
    ((mean, cov),) = posterior.condition(more)._regression.marginals(x, [[0, 1]])
    assert torch.allclose(after.beliefs().mean[0], mean[0], atol=1e-6)
    assert torch.allclose(after.beliefs().cov[0], cov[0], atol=1e-6)


def refit_gain(posterior, new, label, task, anchors, draws=300, target="exp"):
    """Expected rise of the best mean at some points by imagining values, conditioning on each, and predicting."""
    at = new.loc[[label]]
    law = posterior.predict(at, task=task)
    mean, std = float(law["mean"][0]), float(law["std"][0])
    z = scipy.stats.norm.ppf((np.arange(draws) + 0.5) / draws)
    values = []
    for one in z:
        row = at.assign(**{task: mean + std * one})
        more = btl.TaskData.from_wide(row, inputs=["x0", "x1"], tasks=[task], units={task: "eV"})
        values.append(float(posterior.condition(more).predict(anchors, task=target)["mean"].max()))
    return np.mean(values) - float(posterior.predict(anchors, task=target)["mean"].max())


def test_knowledge_gradient_against_refits(posterior, monkeypatch):
    """Every candidate is an anchor, so that nothing is approximated."""
    monkeypatch.setattr(search, "PROMISING", 60)
    new = grid(8, seed=3)
    seen = frame_of().dropna(subset=["exp"])[["x0", "x1"]]
    anchors = pd.concat([seen, new])
    monkeypatch.setattr(search, "MEASURED", len(seen))
    for task in ("cheap", "exp"):
        first = suggest(posterior, new, target="exp", costs={task: 1.0}, batch=1, score="knowledge_gradient")
        brute = {label: refit_gain(posterior, new, label, task, anchors, 60) for label in new.index}
        assert max(brute, key=brute.get) == first["row"][0]
        assert first["gain"][0] == pytest.approx(brute[first["row"][0]], rel=0.03)


def test_where_no_step_is_worth_taking_information_is_sought(posterior, monkeypatch):
    """The default is the knowledge gradient, and the information about the best value where that is stuck."""

    def by(score, costs):
        return suggest(posterior, grid(200), target="exp", costs=costs, batch=3, score=score)

    both, alone = {"cheap": 1, "exp": 10}, {"exp": 10}
    pd.testing.assert_frame_equal(by(None, both), by("knowledge_gradient", both))
    monkeypatch.setattr(suggest_module, "STUCK", math.inf)
    pd.testing.assert_frame_equal(by(None, both), by("max_value_entropy", both))
    gain, most = (by(score, alone)["gain"][0] for score in (None, "expected_improvement"))
    assert 0.8 * most < gain < 1.001 * most  # of the candidates that the gradient looks at; nothing cheap to look for
    held = {"target": "exp", "costs": both, "batch": 2, "constraints": {"cheap": (None, 1.0)}}
    pd.testing.assert_frame_equal(
        suggest(posterior, grid(), **held), suggest(posterior, grid(), **held, score="knowledge_gradient")
    )


@pytest.mark.parametrize("costs", [{"lab": 20}, {"dft": 1, "lab": 20}])
def test_what_is_thought_to_be_the_best_is_measured_once(costs):
    """Measuring it does not raise the best mean, which it holds already; not measuring it leaves nothing in hand."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((40, 2)), columns=["a", "b"])
    frame["dft"] = np.sin(4 * frame["a"]) + frame["b"]
    noise = 0.05 * rng.standard_normal(40)
    frame["lab"] = (1.2 * frame["dft"] + 0.2 + noise).where(np.arange(40) < 10)
    data = btl.TaskData.from_wide(frame, inputs=["a", "b"], tasks=["dft", "lab"])
    posterior = btl.fit(btl.MultiTask(), data, progress=False)
    chosen = suggest(posterior, frame[["a", "b"]], target="lab", costs=costs, batch=3)
    mean = posterior.predict(frame, task="lab", noise=False)["mean"].to_series()
    assert mean.idxmax() > 9
    assert chosen["row"][0] == mean.idxmax()
    if "dft" not in costs:
        assert chosen["gain"][0] == pytest.approx(mean.max() - mean[:10].max(), rel=0.05)
    target = chosen["row"][chosen["task"] == "lab"]
    assert (target == mean.idxmax()).sum() == 1


def test_value_of_perfect_information(posterior, monkeypatch):
    """Of independent normals it is the mean of their maximum; no measurement is worth more; where all is known it is nothing."""
    rng = np.random.default_rng(0)
    mean, std = torch.tensor([[0.0, 0.5, -0.2]]).double(), torch.tensor([[1.0, 0.3, 0.7]]).double()
    drawn = rng.standard_normal((400_000, 3)) * std.numpy() + mean.numpy()
    view = types.SimpleNamespace(mean=mean, covariance=torch.diag_embed(std.square()))
    judge = Judge("knowledge_gradient", (mean, mean))
    assert judge.perfect(view).item() == pytest.approx(drawn.max(1).mean() - 0.5, rel=0.03)
    sure = types.SimpleNamespace(mean=mean, covariance=1e-24 * torch.eye(3, dtype=torch.float64).unsqueeze(0))
    assert judge.perfect(sure).item() < search.NOTHING
    monkeypatch.setattr(search, "PROMISING", 60)  # every candidate is an anchor: none is worth more
    worth, perfect = [], Judge.perfect
    monkeypatch.setattr(Judge, "perfect", lambda *args: worth.append(perfect(*args)) or worth[-1])
    first = suggest(posterior, grid(8), target="exp", costs=COSTS, batch=1)
    brings = math.exp(first["score"][0]) * first["cost"][0]
    assert 0.05 < brings / float(worth[0].mean()) <= 1.0


def test_second_of_a_batch_against_refits(posterior, monkeypatch):
    """The expected improvement after the first choice, over the values that it may take."""
    for module in ("bayestl.decide.suggest.WORLDS", "bayestl.decide.search.WORLDS"):
        monkeypatch.setattr(module, 200)
    new = grid(6, seed=3)
    chosen = suggest(posterior, new, target="exp", costs={"exp": 1}, score="expected_improvement", batch=2)
    first, second = (new.loc[[label]] for label in chosen["row"])
    seen = frame_of().dropna(subset=["exp"])[["x0", "x1"]]
    law = posterior.predict(first, task="exp")
    gains = []
    for z in scipy.stats.norm.ppf((np.arange(60) + 0.5) / 60):
        row = first.assign(exp=float(law["mean"][0]) + float(law["std"][0]) * z)
        more = btl.TaskData.from_wide(row, inputs=["x0", "x1"], tasks=["exp"], units={"exp": "eV"})
        after = posterior.condition(more)
        best = float(after.predict(pd.concat([seen, first]), task="exp", noise=False)["mean"].max())
        own = after.predict(second, task="exp", noise=False)
        values = (torch.tensor(v, dtype=torch.float64) for v in (float(own["mean"][0]), float(own["std"][0]), best))
        gains.append(float(acq.log_expected_improvement(*values).exp()))
    assert chosen["gain"][1] == pytest.approx(np.mean(gains), rel=0.02)


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_variance_score_against_refits(posterior):
    new, region = grid(6), grid(20, seed=5)
    first = suggest(posterior, new, target="exp", goal="learn", batch=1, region=region, costs={"cheap": 1, "exp": 1})
    found = {}
    for label in new.index:
        for task in ("cheap", "exp"):
            more = btl.TaskData.from_wide(new.loc[[label]].assign(**{task: 1.0}), inputs=["x0", "x1"], tasks=[task],
                                          units={task: "eV"})  # fmt: skip
            after = posterior.condition(more).predict(region, task="exp", noise=False)["std"]
            found[label, task] = float((after**2).mean())
    assert min(found, key=found.get) == (first["row"][0], first["task"][0])
    before = float((posterior.predict(region, task="exp", noise=False)["std"] ** 2).mean())
    assert first["gain"][0] == pytest.approx(before**0.5 - min(found.values()) ** 0.5, rel=1e-3)


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_greedy_variance_batch_against_brute_force(posterior):
    """Each choice is the best single addition to those before it."""
    new, region = grid(5), grid(15, seed=5)
    chosen = suggest(posterior, new, target="exp", goal="learn", batch=3, region=region, costs={"exp": 1})
    current = posterior
    for label in chosen["row"]:
        totals = {}
        for candidate in new.index:
            more = btl.TaskData.from_wide(new.loc[[candidate]].assign(exp=1.0), inputs=["x0", "x1"], tasks=["exp"],
                                          units={"exp": "eV"})  # fmt: skip
            after = current.condition(more)
            totals[candidate] = (float((after.predict(region, task="exp", noise=False)["std"] ** 2).mean()), after)
        best = min(totals, key=lambda name: totals[name][0])
        assert best == label
        current = totals[best][1]


def test_linear_derived_target_is_exact(posterior):
    new, region = grid(5), grid(12, seed=5)

    def gap(y):
        return y["exp"] - y["cheap"]

    first = suggest(posterior, new, target=gap, goal="learn", batch=1, region=region)
    before = posterior.derive(gap, region, draws=4000)["std"]
    more = btl.TaskData.from_wide(
        new.loc[[first["row"][0]]].assign(**{first["task"][0]: 1.0}), inputs=["x0", "x1"], tasks=[first["task"][0]],
        units={first["task"][0]: "eV"},
    )  # fmt: skip
    after = posterior.condition(more).derive(gap, region, draws=4000)["std"]
    expected = float((before**2).mean() ** 0.5 - (after**2).mean() ** 0.5)
    assert first["gain"][0] == pytest.approx(expected, rel=0.1)


# -- laws -----------------------------------------------------------------------------------------------------------------


def everything():
    for kind, names in SCORES.items():
        goal = {"optimum": "maximize", "hit": 1.0, "region": "learn", "level": {"above": 1.0}}[kind]
        for name in names:
            yield pytest.param(goal, name, id=f"{kind}-{name}")


@pytest.mark.parametrize("goal, score", list(everything()))
def test_order_of_rows_does_not_matter(draws, goal, score):
    new = grid(300)
    kwargs = {"target": "exp", "goal": goal, "score": score, "costs": COSTS, "batch": 3}
    one = suggest(draws, new, **kwargs)
    other = suggest(draws, new.sample(frac=1, random_state=0), **kwargs)
    pd.testing.assert_frame_equal(one, other)
    assert len(one) == 3
    assert one["score"].notna().all()
    assert np.isfinite(one[["score", "gain", "cost"]].to_numpy()).all()
    assert one["why"].str.contains("cost of").all()


@pytest.mark.parametrize("goal, score", list(everything()))
def test_units_do_not_matter(goal, score):
    new = grid(40)
    a, b = posterior_of(), posterior_of(scale=1000.0, shift=-250.0)
    location = np.array([a.scaling.location[0], 1000 * a.scaling.location[1] - 250])
    scaling = dataclasses.replace(a.scaling, location=location, scale=a.scaling.scale * [1, 1000])
    b = dataclasses.replace(a, data=b.data, scaling=scaling)
    goal_b = 750.0 if goal == 1.0 else {"above": 750.0} if isinstance(goal, dict) else goal
    one = suggest(a, new, target="exp", goal=goal, score=score, costs=COSTS, batch=3)
    two = suggest(b, new, target="exp", goal=goal_b, score=score, costs=COSTS, batch=3)
    assert one["row"].tolist() == two["row"].tolist()
    assert one["task"].tolist() == two["task"].tolist()
    np.testing.assert_allclose(one["score"], two["score"], rtol=1e-5, atol=1e-5)
    unitless = score in ("probability_of_improvement", "entropy", "max_value_entropy", "level")
    np.testing.assert_allclose(one["gain"] * (1 if unitless else 1000), two["gain"], rtol=1e-4)


def test_minimizing_is_maximizing_the_opposite(posterior):
    frame = frame_of()
    frame["exp"] = -frame["exp"]
    data = btl.TaskData.from_wide(
        frame, inputs=["x0", "x1"], tasks=["cheap", "exp"], units={"cheap": "eV", "exp": "eV"}
    )
    for score in SCORES["optimum"]:
        low = suggest(posterior, grid(), target="exp", goal="minimize", score=score, batch=2)
        assert len(low) == 2
    flipped = btl.fit(btl.MultiTask(), data, seed=0, method="map")
    high = suggest(flipped, grid(), target="exp", costs={"exp": 1}, score="expected_improvement", batch=1)
    low = suggest(
        posterior, grid(), target="exp", costs={"exp": 1}, goal="minimize", score="expected_improvement", batch=1
    )
    assert high["row"][0] == low["row"][0]


def test_same_seed_same_answer_and_global_state_untouched(draws):
    state = torch.get_rng_state()
    one = suggest(draws, {"x0": (0.0, 1.0), "x1": (0.0, 1.0)}, target="exp", batch=2, seed=3)
    two = suggest(draws, {"x0": (0.0, 1.0), "x1": (0.0, 1.0)}, target="exp", batch=2, seed=3)
    pd.testing.assert_frame_equal(one, two)
    assert torch.equal(state, torch.get_rng_state())


def test_costs_decide_between_tasks(posterior):
    new = grid()
    dear = suggest(posterior, new, target="exp", costs={"cheap": 1, "exp": 1e6}, batch=2)
    assert (dear["task"] == "cheap").all()
    alike = suggest(posterior, new, target="exp", costs={"cheap": 1e6, "exp": 1}, batch=2)
    assert (alike["task"] == "exp").all()
    assert (alike["cost"] == 1).all()
    # a cost for each candidate: by column, or in order
    column = new.assign(price=np.where(new.index == "c7", 1e-9, 1.0))
    for cost in ("price", column["price"].to_numpy()):
        chosen = suggest(posterior, column, target="exp", costs={"exp": cost}, batch=1)
        assert chosen["row"][0] == "c7"
    one, ten = (suggest(posterior, new, target="exp", costs={"exp": c}, batch=1) for c in (1, 10))
    assert one["score"][0] - ten["score"][0] == pytest.approx(math.log(10))


def test_pending_is_accounted_for(posterior):
    """What is running is not asked for again, just as in a batch."""
    new = grid()
    args = {"target": "exp", "goal": "learn", "costs": {"exp": 1}}
    both = suggest(posterior, new, batch=2, **args)
    running = new.loc[[both["row"][0]]].assign(task="exp")
    after = suggest(posterior, new, batch=1, pending=running, **args)
    assert after["row"][0] == both["row"][1]
    assert after["gain"][0] == pytest.approx(both["gain"][1], rel=1e-6)
    greedy = suggest(posterior, new, target="exp", batch=1, pending=pd.concat([running, running.assign(task="cheap")]))
    assert len(greedy) == 1


def noisy(error):
    frame = frame_of()[["x0", "x1", "exp"]].dropna().assign(err=error)
    data = btl.TaskData.from_wide(frame, inputs=["x0", "x1"], tasks=["exp"], errors={"exp": "err"})
    return btl.fit(btl.SingleTask(), data, seed=0, method="map")


@pytest.mark.filterwarnings("ignore:Input .* is it in another unit")
def test_replicates_where_noise_makes_them_worthwhile():
    far = pd.DataFrame({"x0": [0.5, 3.0], "x1": [0.5, 3.0]})
    region = far.iloc[[1]]
    for error, worthwhile in ((1.0, True), (1e-4, False)):
        chosen = suggest(noisy(error), far, target="exp", goal="learn", batch=2, region=region)
        assert chosen["row"][0] == 1
        repeated = chosen["gain"][1] > 0.01 * chosen["gain"][0]
        assert repeated == worthwhile
    once = suggest(noisy(1.0), far, target="exp", goal="learn", batch=2, region=region, replicates=False)
    assert sorted(once["row"]) == [0, 1]


def test_own_lists_and_bounds(posterior):
    new = grid(30)
    lists = {"cheap": new.iloc[:10], "exp": new.iloc[10:]}
    chosen = suggest(posterior, lists, target="exp", costs=COSTS, batch=4)
    for row, task in zip(chosen["row"], chosen["task"], strict=True):
        assert row in lists[task].index
    chosen = suggest(posterior, {"cheap": new}, target="exp", batch=2)
    assert (chosen["task"] == "cheap").all()
    inside = suggest(posterior, {"x0": (0.2, 0.4), "x1": (0.5, 0.9)}, target="exp", batch=3, costs={"exp": 1})
    assert inside["x0"].between(0.2, 0.4).all()
    assert inside["x1"].between(0.5, 0.9).all()
    listed = suggest(posterior, {"x0": (0.2, 0.4), "x1": [0.5, 0.9]}, target="exp", batch=2)
    assert listed["x1"].isin([0.5, 0.9]).all()


def test_refinement_beats_the_quasi_random_points(posterior):
    box = {"x0": (0.0, 1.0), "x1": (0.0, 1.0)}
    args = {"target": "exp", "costs": {"exp": 1}, "score": "upper_confidence_bound", "batch": 1}
    fine = pd.DataFrame(np.stack(np.meshgrid(*[np.linspace(0, 1, 201)] * 2), -1).reshape(-1, 2), columns=["x0", "x1"])
    assert suggest(posterior, box, **args)["gain"][0] >= suggest(posterior, fine, **args)["gain"][0] - 2e-3


def test_shortlist_agrees_with_looking_at_everything(draws, monkeypatch):
    new = grid(400)
    args = {"target": "exp", "costs": COSTS, "batch": 1}
    short = suggest(draws, new, **args)
    monkeypatch.setattr(search, "SHORT", 1000)
    monkeypatch.setattr(search, "POINTS", 10_000)
    whole = suggest(draws, new, **args)
    assert short["row"][0] == whole["row"][0]
    assert short["score"][0] == pytest.approx(whole["score"][0], abs=0.02)


def test_target_without_rows():
    """A new task has no best so far: candidates are compared with one another."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30), "task": np.repeat(["a", "b", "c"], 10)})
    frame["y"] = np.sin(5 * frame["x"]) + 0.1 * rng.standard_normal(30)
    data = btl.TaskData.from_long(frame, inputs=["x"], task="task", value="y")
    fresh = btl.fit(btl.LatentTask(), data, seed=0, method="map").new_task("d", draws=16)
    new = pd.DataFrame({"x": np.linspace(0, 1, 20)})
    for score in SCORES["optimum"]:
        chosen = suggest(fresh, new, target="d", score=score, costs={"d": 1}, batch=2)
        assert np.isfinite(chosen["score"]).all()


def test_condensed_table_agrees_with_the_exact_one(posterior):
    problem = posterior._problem
    inducing = condense([lambda: problem], posterior.model, problem.layout, posterior._mixed, problem.points)
    short = dataclasses.replace(posterior, inducing=inducing, condensed=len(posterior.data))
    pending = grid(1, seed=9).assign(task="exp")
    args = {"target": "exp", "costs": COSTS, "batch": 2, "pending": pending}
    exact, close = (suggest(p, grid(), **args) for p in (posterior, short))
    assert exact["row"].tolist() == close["row"].tolist()
    np.testing.assert_allclose(exact["score"], close["score"], atol=0.02)


# -- every likelihood ------------------------------------------------------------------------------------------------------

LIKELIHOODS = {
    "gaussian": (btl.Gaussian(), "maximize"),
    "log": (btl.Gaussian(btl.Log()), "maximize"),
    "log-hit": (btl.Gaussian(btl.Log()), 2.0),
    "student": (btl.StudentT(), "minimize"),
    "censored": (btl.Censored(lower=0.5), "maximize"),
    "hurdle": (btl.Hurdle(), "maximize"),
    "poisson": (btl.Poisson(), "maximize"),
    "negative-binomial": (btl.NegativeBinomial(), {"above": 3.0}),
    "bernoulli": (btl.Bernoulli(), "high"),
    "ordinal": (btl.Ordinal(), "maximize"),
    "ordinal-class": (btl.Ordinal(), 1),
    "categorical": (btl.Categorical(), "green"),
}


@pytest.fixture(scope="module", params=LIKELIHOODS)
def observed(request):
    likelihood, goal = LIKELIHOODS[request.param]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(24)})
    f = np.sin(4 * frame["x"]) + 1.0
    values = {
        "Hurdle": np.where(f > 1.0, f, 0.0), "Poisson": rng.poisson(3 * f), "NegativeBinomial": rng.poisson(3 * f),
        "Bernoulli": np.where(f > 1.2, "high", "low"), "Censored": np.maximum(f, 0.5),
        "Ordinal": np.digitize(f, [0.7, 1.5]), "Categorical": np.array(["blue", "green", "red"])[np.digitize(f, [0.7, 1.5])],
    }  # fmt: skip
    frame["seen"] = values.get(type(likelihood).__name__, f + 0.05 * rng.standard_normal(24))
    if isinstance(likelihood, btl.Ordinal):
        frame["seen"] = pd.Categorical(frame["seen"], categories=[0, 1, 2], ordered=True)
    frame["other"] = f + 0.1 * rng.standard_normal(24)
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["seen", "other"], likelihoods={"seen": likelihood})
    return btl.fit(btl.MultiTask(), data, seed=0, method="map"), goal


@pytest.mark.filterwarnings("ignore:Nothing on offer")
def test_every_likelihood_as_target_source_and_constraint(observed):
    posterior, goal = observed
    new = pd.DataFrame({"x": np.linspace(0, 1, 30)})
    kind = "level" if isinstance(goal, dict) else "hit" if isinstance(goal, float) else "optimum"
    for score in SCORES[kind]:
        chosen = suggest(posterior, new, target="seen", goal=goal, score=score, batch=2)
        assert np.isfinite(chosen[["score", "gain"]].to_numpy()).all()
    source = suggest(
        posterior, new, target="other", costs={"seen": 1}, goal="learn", batch=2, pending=new[:1].assign(task="seen")
    )
    assert (source["task"] == "seen").all()
    assert (source["gain"] > 0).all()
    task = posterior.data.tasks[0]
    wanted = task.levels[-1] if task.levels else (1.0, None)
    bound = suggest(posterior, new, target="other", constraints={"seen": wanted}, costs={"other": 1}, batch=2)
    assert bound["why"].str.contains("constraints hold").all()


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_information_in_other_observations_against_refits():
    """What a class or a count is expected to tell, against conditioning on each thing that may be seen."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"x": rng.random(30)})
    f = np.sin(4 * frame["x"])
    frame["stable"] = f + 0.3 * rng.standard_normal(30) > 0.3
    frame["count"] = rng.poisson(4 * np.exp(0.5 * f))
    laws = {"stable": btl.Bernoulli(), "count": btl.Poisson()}
    new = pd.DataFrame({"x": [0.15, 0.5, 1.3]})
    region = pd.DataFrame({"x": [1.2, 1.4]})
    for name, values in (("stable", [False, True]), ("count", range(40))):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=[name], likelihoods={name: laws[name]})
        posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map")
        chosen = suggest(posterior, new, target=name, goal="learn", region=region, batch=1)
        assert chosen["row"][0] == 2

        def variance(p):
            x = p._inputs(region)[1]
            return float(p._marginals(x, 0)[1].mean())

        (law,) = posterior.laws(new.iloc[[2]], name, True, 1)
        chance = [float(law.log_density(torch.tensor([float(v)]).double()).exp()) for v in values]
        later = 0.0
        for value, weight in zip(values, chance, strict=True):
            row = new.iloc[[2]].assign(**{name: value})
            encoded = dataclasses.replace(data.where(np.arange(30) < 1), x=row[["x"]].to_numpy(), values=np.array([float(value)]),
                                          rows=np.array([99]))  # fmt: skip
            later += weight * variance(posterior.condition(encoded))
        now = variance(posterior)
        score = math.exp(chosen["score"][0])
        assert score == pytest.approx((now - later) / now, rel=0.15)


def test_objectives_of_several_functions_have_the_means_that_are_predicted():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(40)})
    f = np.sin(4 * frame["x"]) + 0.2 * rng.standard_normal(40)
    frame["gap"] = np.where(f > 0, f, 0.0)
    frame["colour"] = np.array(["blue", "green", "red"])[np.digitize(f, [-0.2, 0.5])]
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["gap", "colour"],
                                  likelihoods={"gap": btl.Hurdle(), "colour": btl.Categorical()})  # fmt: skip
    posterior = btl.fit(btl.MultiTask(), data, seed=0, method="map")
    new = pd.DataFrame({"x": np.linspace(0, 1, 5)})
    x = posterior._inputs(new)[1]
    means = {"gap": posterior.predict(new, task="gap", noise=False)["mean"].to_numpy(),
             "green": posterior.predict(new, task="colour")["probability"].sel({"class": "green"}).to_numpy()}  # fmt: skip
    theta, _ = worlds(posterior, 1, [], 0)
    for target, label in (("gap", None), ("colour", "green")):
        objective = objective_of(posterior, theta, target, 1.0, label)
        ((mean, cov),) = posterior._regression.marginals(x, [objective.outputs])
        offset, weights = objective.linear(mean, cov)
        found = (offset + (weights * mean).sum(-1))[0].numpy()
        np.testing.assert_allclose(found, means[label or "gap"], atol=0.02)


def test_weights_of_the_maximum_give_its_covariance():
    """``Cov[max f, g] = sum_a P(a is best) Cov[f_a, g]`` (Stein), which the variance score of an optimum rests on."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 4))
    draws = rng.multivariate_normal([0.3, 0.0, -0.2, 0.5], a @ a.T, size=400_000)
    share = np.bincount(draws[:, :3].argmax(1), minlength=3) / len(draws)
    found = np.cov(draws[:, :3].max(1), draws[:, 3])[0, 1]
    assert found == pytest.approx(share @ (a @ a.T)[:3, 3], rel=0.03)


def test_constraints_keep_to_what_is_feasible(posterior):
    frame = frame_of().assign(stable=lambda t: t["x0"] < 0.5)
    data = btl.TaskData.from_wide(frame, inputs=["x0", "x1"], tasks=["exp", "cheap", "stable"],
                                  likelihoods={"stable": btl.Bernoulli()})  # fmt: skip
    fitted = btl.fit(btl.MultiTask(), data, seed=0, method="map")
    new = grid()
    for score in ("knowledge_gradient", "expected_improvement", "upper_confidence_bound", "thompson"):
        for wanted, side in ((True, new["x0"] < 0.6), (False, new["x0"] > 0.4)):
            chosen = suggest(fitted, new, target="exp", goal="maximize", score=score, costs={"exp": 1}, batch=3,
                             constraints={"stable": wanted})  # fmt: skip
            assert side[chosen["row"][0]]
    options = {"target": "exp", "costs": {"exp": 1}, "score": "expected_improvement", "batch": 2}
    either = suggest(fitted, new, constraints={"stable": [True, False]}, **options)
    free = suggest(fitted, new, **options)
    np.testing.assert_array_equal(either["row"], free["row"])  # one of all classes is certain
    np.testing.assert_allclose(either["gain"], free["gain"], rtol=1e-9)
    one, listed = (suggest(fitted, new, constraints={"stable": w}, **options) for w in (True, [True]))
    assert one["row"].equals(listed["row"])
    low = suggest(
        posterior,
        new,
        target="exp",
        costs={"exp": 1},
        score="expected_improvement",
        constraints={"cheap": (None, 0.8)},
        batch=1,
    )
    assert float(posterior.predict(new.loc[low["row"]], task="cheap")["mean"][0]) < 1.0


def test_gain_where_chances_move_against_monte_carlo_and_where_they_do_not():
    rng = np.random.default_rng(0)
    value, slope = (torch.tensor(rng.normal(size=(20, 5))) for _ in range(2))
    chance, turn = torch.tensor(rng.uniform(0.1, 0.9, (20, 5))), torch.tensor(rng.uniform(-0.9, 0.9, (20, 5)))
    h = torch.special.ndtri(chance)
    rise = turn * torch.exp(-h.square() / 2) / math.sqrt(2 * math.pi)
    found = acq.log_feasible_gradient(value, slope, chance, rise).exp()
    z = torch.tensor(scipy.stats.norm.ppf((np.arange(4000) + 0.5) / 4000))[:, None, None]
    worth = torch.special.ndtr((h + turn * z) / (1 - turn.square()).sqrt()) * (value + slope * z)
    expected = worth.amax(-1).mean(0) - worth.mean(0).amax(-1)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=2e-3)
    still = acq.log_feasible_gradient(value, slope, chance, 0 * rise).exp()
    torch.testing.assert_close(
        still, acq.log_knowledge_gradient(chance * value, chance * slope).exp(), rtol=0.05, atol=2e-3
    )


def test_a_constraint_is_learned_as_refits_say(monkeypatch):
    """The best that may be recommended, as far as it is feasible, after each value that the constraint may show."""
    monkeypatch.setattr(search, "PROMISING", 300)  # every candidate is an anchor
    x = np.linspace(0, 1, 21)
    frame = pd.DataFrame(
        {"x": x, "y": 10 * x + np.sin(6 * x), "heat": np.where(np.isin(np.arange(21), [0, 7, 20]), 5 * x, np.nan)}
    )
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y", "heat"])
    one = btl.fit(btl.SingleTask(), data, seed=0, method="map")
    options = {"target": "y", "constraints": {"heat": (None, 2.6)}, "batch": 1}
    mean = one.predict(frame, task="y", noise=False)["mean"].to_numpy()

    def best(posterior):
        chance = posterior.probability(frame, "heat", below=2.6, noise=False).to_numpy()
        return (chance * (mean - mean.min())).max()

    for place in (10, 12, 14):
        at = frame.loc[[place], ["x"]]
        law, after = one.predict(at, task="heat"), []
        for z in scipy.stats.norm.ppf((np.arange(40) + 0.5) / 40):
            told = at.assign(heat=float(law["mean"][0]) + float(law["std"][0]) * z)
            after.append(best(one.condition(btl.TaskData.from_wide(told, inputs=["x"], tasks=["heat"]))))
        chosen = suggest(one, at, costs={"heat": 1.0}, **options)
        offered = suggest(one, {"y": frame[["x"]], "heat": at}, costs={"heat": 1.0}, **options)
        assert offered["gain"][0] == pytest.approx(np.mean(after) - best(one), rel=0.1)
        assert "heat" in set(chosen["task"])
    both = suggest(one, frame[["x"]], costs={"y": 1.0, "heat": 1.0}, **(options | {"batch": 4}))
    assert set(both["task"]) == {"heat"}  # y is known
    assert both["x"].between(0.35, 1.0).all()
    free = suggest(one, frame[["x"]], costs={"y": 1.0}, score="expected_improvement", **(options | {"batch": 3}))
    assert (
        free["gain"] < 0.1
    ).all()  # where y was measured it cannot improve, though no better place is known to be feasible


def test_where_nothing_can_be_gained_a_notice_says_so():
    x = np.linspace(0, 1, 11)
    frame = pd.DataFrame({"x": x, "y": 10 * x, "other": np.where(np.arange(11) < 5, 5 * x, np.nan)})
    one = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y", "other"]), method="map")
    with pytest.warns(UserWarning, match="Nothing on offer is expected to tell anything of y"):
        suggest(one, frame[["x"]], target="y", costs={"other": 1}, batch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        suggest(one, frame[["x"]], target="other", batch=1)
    vain = {"target": "other", "constraints": {"y": (1e3, None)}, "batch": 1}  # y is below 10
    with pytest.warns(UserWarning, match="The constraints on 'y' are thought to hold at none of the candidates"):
        suggest(one, frame[["x"]], **vain)


def test_what_shall_be_avoided_is_not_suggested(posterior):
    options = {"target": "exp", "costs": {"exp": 1.0}, "batch": 1}
    new, box = grid(), {"x0": (0.0, 1.0), "x1": (0.0, 1.0)}
    first = suggest(posterior, new, **options)
    again = suggest(posterior, new, avoid=first[["x0", "x1", "task"]], **options)
    assert again["row"][0] != first["row"][0]
    place = suggest(posterior, box, **options)[["x0", "x1", "task"]]
    for _ in range(3):
        more = suggest(posterior, box, avoid=place, **options)[["x0", "x1", "task"]]
        far = np.abs(more[["x0", "x1"]].to_numpy() - place[["x0", "x1"]].to_numpy()).max(1)
        assert (far > 0.05).all()
        place = pd.concat([place, more], ignore_index=True)
    with pytest.raises(ValueError, match="All candidates are to be avoided"):
        suggest(posterior, new.iloc[:1], avoid=new.iloc[:1].assign(task="exp"), **options)
    assert len(suggest(posterior, new.iloc[:1], avoid=new.iloc[:1].assign(task="cheap"), **options)) == 1


def test_costs_go_by_the_labels_of_the_candidates(posterior):
    new = grid(8)
    costs = pd.Series(np.arange(1.0, 9.0), index=new.index)
    plain = suggest(posterior, new, target="exp", costs={"exp": costs.tolist()}, batch=4)
    mixed = suggest(posterior, new, target="exp", costs={"exp": costs.sample(frac=1, random_state=0)}, batch=4)
    pd.testing.assert_frame_equal(plain, mixed)
    fewer = suggest(posterior, new.iloc[2:], target="exp", costs={"exp": costs}, batch=1)  # of a pool that shrank
    pd.testing.assert_frame_equal(
        fewer, suggest(posterior, new.iloc[2:], target="exp", costs={"exp": costs.tolist()[2:]}, batch=1)
    )
    with pytest.raises(btl.DataError, match="no rows"):
        suggest(posterior, new.iloc[:0], target="exp", costs={"exp": costs}, batch=1)
    with pytest.raises(btl.DataError, match="they do not match, they lack"):
        suggest(posterior, new, target="exp", costs={"exp": costs.reset_index(drop=True)}, batch=1)


# -- errors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"goal": "best"}, "`goal` must be 'maximize'"),
        ({"goal": {"above": "much"}}, "finite number"),
        ({"score": "ei"}, "`score` must be one of"),
        ({"target": "xp"}, "Unknown task"),
        ({"costs": {"pbe": 1}}, "Unknown task"),
        ({"costs": {"exp": -1}}, "Costs must be positive"),
        ({"costs": {"exp": "price"}}, "column 'price'"),
        ({"costs": {"exp": [1, 2]}}, "one number for each"),
        ({"batch": 0}, "`batch`"),
        ({"candidates": {"x0": (0, 1)}}, "must name every input"),
        ({"candidates": {"x0": (1, 0), "x1": (0, 1)}}, "low < high"),
        ({"candidates": pd.DataFrame({"x0": [0.1]})}, "lacks columns 'x1'"),
        ({"candidates": pd.DataFrame({"x0": [], "x1": []})}, "no rows"),
        ({"candidates": {"x0": [0.1, 0.2, 0.3], "x1": [0.1, 0.2]}}, "Bounds are tuples"),
        ({"avoid": pd.DataFrame({"x0": [0.1], "x1": [0.2]})}, "`avoid` needs a column 'task'"),
        ({"pending": pd.DataFrame({"x0": [0.1], "x1": [0.2]})}, "column 'task'"),
        ({"constraints": {"cheap": 1.0}}, "(low, high)"),
        ({"constraints": {"cheap": (2.0, 1.0)}}, "low < high"),
        ({"score": "thompson", "costs": {"cheap": 1}}, "measurements of the target"),
        ({"target": lambda y: y["exp"]}, "can be learned"),
        ({"target": lambda y: y["exp"].mean("row"), "goal": "learn"}, "'draw' and 'row'"),
        ({"goal": {"above": 1e9}}, "thousand of its spreads"),
        ({"batch": 200, "replicates": False}, "without replicates"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(posterior, kwargs, message):
    arguments = {"candidates": grid(), "target": "exp"} | kwargs
    with pytest.raises((ValueError, btl.DataError)) as caught:
        suggest(posterior, arguments.pop("candidates"), **arguments)
    assert message in str(caught.value)


# -- tails, and what counts as measured ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "share"), [(0.0, 1e-16), (4.0, 1e-12), (5.0, 1e-4), (7.0, 0.5), (30.0, 0.5), (1.0, 0.3)])
def test_the_fall_of_doubt_is_exact_however_small(h, share):
    """Of two values of Owen's function that are nearly equal, the difference had no digits."""
    mpmath.mp.dps = 50
    r, big = mpmath.mpf(share), mpmath.mpf(h)
    a = mpmath.sqrt((1 - r) / (1 + r))
    exact = mpmath.quad(lambda x: mpmath.exp(-(big**2) * (1 + x * x) / 2) / (1 + x * x), mpmath.linspace(a, 1, 50))
    one = torch.ones(1).double()
    found = acq.log_level_reduction(h * one, one, math.sqrt(share) * one, torch.zeros(1).double()).item()
    assert found == pytest.approx(float(mpmath.log(exact / mpmath.pi)), abs=1e-6)


@pytest.mark.parametrize(("distance", "best"), [(0.0, 1e-6), (1.0, 1e-8), (30.0, 1e-9), (2.0, 0.004), (3.0, 1.0)])
def test_approaches_are_exact_however_near_the_best_is(distance, best):
    mpmath.mp.dps = 60
    d, b = mpmath.mpf(distance), mpmath.mpf(best)
    triangle = mpmath.quad(lambda x: (b - abs(x)) * mpmath.npdf(x - d), [-b, 0, b])
    chance = mpmath.quad(lambda x: mpmath.npdf(x - d), [-b, 0, b])
    given = (torch.tensor(v, dtype=torch.float64) for v in (distance, 1.0, best))
    mean, std, bar = given
    assert acq.log_expected_approach(mean, std, bar).item() == pytest.approx(float(mpmath.log(triangle)), rel=1e-8)
    assert acq.log_probability_of_approach(mean, std, bar).item() == pytest.approx(float(mpmath.log(chance)), rel=1e-8)
    assert acq.log_expected_approach(mean, std, 0 * bar).item() == -math.inf


def test_no_gain_is_less_than_any():
    lines = torch.tensor([[0.0, -1.0], [0.0, -1.0]]).double(), torch.tensor([[0.0, 0.0], [0.0, 0.02]]).double()
    none, some = acq.log_knowledge_gradient(*lines)
    assert none == -math.inf < some == pytest.approx(-1262.66, abs=0.01)
    far = torch.tensor([1.0, 9.0]).double(), torch.tensor([1e-12, 1.0]).double(), torch.tensor([0.0, 1.0]).double()
    assert acq.log_approach_gradient(*far).item() == -math.inf
    assert acq.log_approach_gradient(*far, far=True).item() == pytest.approx(-37.12, abs=0.1)  # eight deviations


@pytest.mark.filterwarnings("ignore:Nothing on offer")
def test_the_best_of_many_measured_points_is_among_all_of_them(monkeypatch):
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(60))
    frame = pd.DataFrame({"x": x, "y": x + 1e-3 * rng.standard_normal(60)})
    one = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"]), seed=0, method="map")
    options = {"target": "y", "score": "expected_improvement", "batch": 1}
    whole = suggest(one, {"x": [0.5, 0.9]}, **options)
    monkeypatch.setattr(search, "LARGE", 20)
    pd.testing.assert_frame_equal(suggest(one, {"x": [0.5, 0.9]}, **options), whole)


@pytest.fixture(scope="module")
def exact():
    """A function known at a few points, without noise."""
    x = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    frame = pd.DataFrame({"x": x, "y": np.sin(9 * x), "e": 1e-4})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], errors={"y": "e"})
    return btl.fit(btl.SingleTask(), data, seed=0, method="map")


@pytest.mark.parametrize("score", ["expected_improvement", "probability_of_improvement"])
@pytest.mark.parametrize("goal", ["maximize", 0.5])
def test_what_is_pending_is_not_asked_for_again(exact, score, goal):
    pool, chosen = {"x": [0.02, 0.1, 0.3, 0.5, 0.7, 0.98]}, []
    for _ in range(3):
        pending = pd.DataFrame({"x": chosen, "task": "y"})
        chosen += suggest(exact, pool, target="y", goal=goal, score=score, batch=1, pending=pending)["x"].tolist()
    assert len(set(chosen)) == 3


def test_the_best_so_far_is_not_better_than_itself(exact):
    pool = {"x": [0.1, 0.2, 0.4, 0.5]}  # two of them measured
    found = suggest(exact, pool, target="y", score="probability_of_improvement", batch=3)
    assert found["x"].nunique() == 3
    with pytest.raises(btl.DataError, match="not in which task"):
        suggest(exact, pool, target="y", pending=pd.DataFrame({"x": [0.1], "task": [None]}))


def test_what_the_target_cannot_measure_cannot_be_its_best():
    """A peak where the lab cannot go is worth nothing to it, however much a computation there would tell of it."""
    x = np.linspace(0, 1, 16)
    f = 3 * np.exp(-(((x - 0.8) / 0.12) ** 2)) + 0.3 * np.sin(9 * x)
    frame = pd.DataFrame({"x": x, "dft": f, "lab": (f + 0.1 * x)}).astype(float)
    frame.loc[(x >= 0.65) & (x <= 0.95), "dft"] = np.nan
    frame.loc[(x >= 0.3) | (np.arange(16) % 2 == 1), "lab"] = np.nan
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["dft", "lab"])
    both = btl.fit(btl.MultiTask(), data, seed=0, method="map")
    lab, dft = (pd.DataFrame({"x": np.linspace(0, top, n)}) for top, n in ((0.3, 7), (1.0, 21)))
    for score in ("knowledge_gradient", "max_value_entropy"):
        options = {"target": "lab", "costs": {"dft": 1, "lab": 1}, "score": score, "batch": 1}
        assert suggest(both, {"lab": lab, "dft": dft}, **options)["x"].iloc[0] <= 0.3
        assert suggest(both, {"lab": dft, "dft": dft}, **options)["x"].iloc[0] > 0.7


@pytest.mark.parametrize("score", ["knowledge_gradient", "max_value_entropy", "variance"])
def test_a_table_for_each_task_is_one_for_all(posterior, score):
    one, costs = grid(20), {"cheap": 1.0, "exp": 4.0}
    options = {"target": "exp", "costs": costs, "score": score, "batch": 3}
    found = [suggest(posterior, candidates, **options) for candidates in (one, {"cheap": one, "exp": one})]
    pd.testing.assert_frame_equal(*(own.drop(columns="why") for own in found), rtol=1e-6)


def test_the_same_inputs_twice_are_no_replicates(exact):
    twice = pd.DataFrame({"x": np.repeat([0.1, 0.3, 0.5], 3)})
    found = suggest(exact, twice, target="y", batch=3, replicates=False)
    assert sorted(found["x"]) == [0.1, 0.3, 0.5]
    with pytest.raises(ValueError, match="there are 3"):
        suggest(exact, twice, target="y", batch=4, replicates=False)


def test_thompson_draws_theta_anew_for_every_seed(draws, monkeypatch):
    """A campaign that asks for one at a time always had the first draw of theta."""
    taken, drawn = [], search.Search._drawn

    def noted(self, joint, own, judge, likely, step):
        taken.append(step % len(self.found))
        return drawn(self, joint, own, judge, likely, step)

    monkeypatch.setattr(search.Search, "_drawn", noted)
    for seed in range(8):
        suggest(draws, grid(), target="exp", score="thompson", batch=1, seed=seed)
    assert len(set(taken)) > 3


def test_inputs_must_not_be_called_as_the_answer_is():
    frame = pd.DataFrame({"cost": [0.0, 0.5, 1.0], "y": [0.0, 1.0, 0.5]})
    one = btl.fit(btl.SingleTask(), btl.TaskData.from_wide(frame, inputs=["cost"], tasks=["y"]), seed=0, method="map")
    with pytest.raises(btl.DataError, match="Rename"):
        suggest(one, {"cost": [0.2]}, target="y")


def test_classes_without_an_order_have_no_largest():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 9), "colour": list("abcabcabc")})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["colour"])
    one = btl.fit(btl.SingleTask(), data, seed=0, method="map")
    for goal in ("maximize", "learn", {"above": 1.0}):
        with pytest.raises(ValueError, match="Say which is wanted: goal='a'"):
            suggest(one, frame[["x"]], target="colour", goal=goal)
        with pytest.raises(ValueError, match="Say which is wanted"):
            btl.Campaign.create(None, btl.SingleTask(), data, frame[["x"]], target="colour", goal=goal)
    assert len(suggest(one, frame[["x"]], target="colour", goal="b", batch=1)) == 1


@pytest.mark.parametrize("score", SCORES["optimum"])
@pytest.mark.parametrize("costs", [None, {"cheap": 1.0, "exp": 20.0}, {"exp": 20.0}])
def test_every_score_works_within_bounds(posterior, score, costs):
    bounds = {"x0": (0.0, 1.0), "x1": (0.0, 1.0)}
    chosen = suggest(posterior, bounds, target="exp", score=score, costs=costs, batch=2)
    assert len(chosen) == 2
    assert set(chosen["task"]) <= ({"exp"} if score in OF_TARGET or costs == {"exp": 20.0} else {"cheap", "exp"})


@pytest.mark.parametrize("wanted", ["cubic", "monoclinic"])
def test_the_class_that_is_wanted_is_spoken_of(wanted):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30)}).assign(phase=lambda t: np.where(t["x"] > 0.5, "monoclinic", "cubic"))
    frame.loc[[0, 1], "phase"] = ["monoclinic", "cubic"]
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["phase"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)
    new = pd.DataFrame({"x": np.linspace(0, 1, 11)})
    line = suggest(posterior, new, target="phase", goal=wanted, batch=1).iloc[0]
    assert f"raise the best probability of phase = {wanted}" in line["why"]
    chosen = suggest(posterior, new, target="phase", goal=wanted, score="upper_confidence_bound", batch=1).iloc[0]
    chance = posterior.predict(new, "phase")["probability"].sel({"class": wanted})
    assert float(chance[int(chosen["row"])]) > 0.5
    said = [float(part) for part in chosen["why"].split("thought to be ")[1].removesuffix(" (90 %).").split(" to ")]
    assert said[0] <= float(chance[int(chosen["row"])]) <= said[1]


def test_levels_are_in_double_precision():
    rng = np.random.default_rng(0)
    x = rng.random(30)
    frame = pd.DataFrame({"x": x, "E": -12345 + 0.001 * (np.sin(5 * x) + 0.2 * rng.standard_normal(30))})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["E"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)
    new, goal = pd.DataFrame({"x": np.linspace(0, 1, 11)}), {"above": -12345.0003}
    named = suggest(posterior, new, target="E", goal=goal, batch=1)
    derived = suggest(posterior, new, target=lambda v: v["E"] + 0 * v["E"], goal=goal, batch=1)
    np.testing.assert_allclose(derived["gain"], named["gain"], rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"goal": "learn"}, {"score": "thompson"}, {"score": "upper_confidence_bound"}])
@pytest.mark.parametrize("count", [130, 384])
def test_large_batches_without_replicates_hold_none(options, count):
    """However many candidates there are beside those that are looked at closely, and though some are listed twice."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(12), "z": rng.random(12)})
    data = btl.TaskData.from_wide(frame.assign(y=np.sin(6 * frame["x"]) + frame["z"]), inputs=["x", "z"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)
    new = pd.DataFrame({"x": rng.random(count), "z": rng.random(count)})
    twice = pd.concat([new, new.iloc[:60]], ignore_index=True)
    chosen = suggest(posterior, twice, target="y", batch=96, replicates=False, **options)
    assert len(chosen[["x", "z"]].drop_duplicates()) == 96
    assert np.isfinite(chosen["score"]).all()


@pytest.mark.filterwarnings("ignore:Nothing on offer")
def test_chances_are_said_within_their_limits_and_values_as_they_are():
    """A linear approximation of a probability may leave its limits; a value that is called so has none."""
    x = np.linspace(0, 1, 40)
    grades = pd.Categorical(
        np.array(["poor", "fair", "good"])[np.digitize(x, [0.3, 0.6])], ["poor", "fair", "good"], ordered=True
    )
    name = "probability of pore"
    frame = pd.DataFrame({"x": x, "grade": grades, name: 5 + 3 * x})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["grade", name])
    posterior = btl.fit(btl.SingleTask(), data, method="map", progress=False)

    def said(**wanted):
        why = suggest(posterior, frame[["x"]].iloc[::4], **wanted)["why"].iloc[0]
        low, high = why.split("thought to be ")[1].split(" (90 %)")[0].split(" to ")
        return float(low), float(high)

    assert 0.0 <= said(target="grade", goal="good")[0] <= said(target="grade", goal="good")[1] <= 1.0
    assert said(target=name, goal="maximize")[1] > 7


def test_what_candidates_lack_is_said_once_and_to_the_caller():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(30), "area": rng.uniform(1, 3, 30)})
    frame["defects"] = rng.poisson(frame["area"] * np.exp(1 + np.sin(5 * frame["x"])))
    data = btl.TaskData.from_wide(
        frame, inputs=["x"], tasks=["defects"], likelihoods={"defects": btl.Poisson(exposure="area")}
    )
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map", progress=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        suggest(posterior, {"x": np.linspace(0, 1, 40)}, target="defects", goal="minimize", batch=3)
    told = [note for note in said if "no column 'area'" in str(note.message)]
    assert len(told) == 1
    assert told[0].filename == __file__


@pytest.mark.parametrize("a", [-40.0, -3.0, 0.0, 2.0, 30.0, 1000.0])
def test_where_gains_arise(a):
    """What is said of single gains adds up to the expected one, which closed forms tell."""
    mean, std, best = (torch.tensor([[value]]).double() for value in (1.0, 0.3, 1.0 + 0.3 * a))
    _, log = acq.improvements(mean, std, best)
    total = log.logsumexp(-1) - 0.5 * math.log(2 * math.pi) + math.log(17 / 85)
    torch.testing.assert_close(total, acq.log_expected_improvement(mean, std, best)[0], rtol=0, atol=5e-3)
    lines = torch.tensor([[0.0, -abs(a) / 10, -0.5]]).double(), torch.tensor([[0.1, 1.0, -2.0]]).double()
    _, log = acq.rises(*lines)
    total = log.logsumexp(-1) + math.log(76 / 1216 / math.sqrt(2 * math.pi))
    torch.testing.assert_close(total, acq.log_knowledge_gradient(*lines), rtol=0, atol=5e-3)


def rates(table, law):
    return btl.TaskData.from_wide(table, inputs=["x"], tasks=["rate"], likelihoods={"rate": law})


def bent(law, seed=0):
    """Fifteen values over decades, with a gap in the inputs."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, 15)
    f = 1.5 * np.sin(6 * x) + 0.1 * rng.standard_normal(15)
    values = rng.poisson(np.exp(1 + f)) if isinstance(law, btl.Poisson) else np.exp(f)
    table = pd.DataFrame({"x": x, "rate": values})[(x < 0.72) | (x > 0.88)]
    return btl.fit(btl.SingleTask(), rates(table, law), method="map"), pd.DataFrame(
        {"x": [0.05, 0.25, 0.45, 0.75, 0.79, 0.83]}
    )


@pytest.mark.parametrize("law", [btl.Gaussian(btl.Log()), btl.Gaussian(btl.Sqrt(0.1)), btl.Poisson()], ids=repr)
@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_improvements_on_bent_scales_are_in_units(law, goal):
    posterior, candidates = bent(law)
    sign = 1.0 if goal == "maximize" else -1.0
    told = {"target": "rate", "score": "expected_improvement", "goal": goal, "batch": 1}
    chosen = suggest(posterior, candidates, **told).iloc[0]
    seen = posterior.predict(posterior.data.to_frame()[["x"]], noise=False)["quantile"].sel(quantile_level=0.5)
    best = (sign * seen.values).max()
    drawn = posterior.sample(candidates.loc[[chosen["row"]]], "rate", draws=40_000, noise=False, joint=False)
    gain = np.maximum(sign * drawn.values - best, 0.0)
    assert chosen["gain"] == pytest.approx(gain.mean(), rel=0.03, abs=5 * gain.std() / 200)


@pytest.mark.parametrize("law", [btl.Gaussian(btl.Log()), btl.Poisson(), btl.Censored(lower=0.0, upper=4.0)], ids=repr)
def test_what_is_learned_on_bent_scales_is_in_units(law):
    """As the same target written as a function, and as conditioning on what may come says."""
    posterior, candidates = bent(law)
    named = suggest(posterior, candidates, target="rate", goal="learn", batch=1).iloc[0]
    derived = suggest(posterior, candidates, target=lambda y: y["rate"], goal="learn", batch=1).iloc[0]
    assert named["row"] == derived["row"]
    assert named["gain"] == pytest.approx(derived["gain"], rel=1e-6)

    def spread(given):
        return np.sqrt((given.predict(candidates, task="rate", noise=False)["std"].values ** 2).mean())

    after = []
    for row in candidates.index:
        place = candidates.loc[[row]]
        drawn = posterior.sample(place, "rate", draws=40, noise=True).values.ravel()
        after.append(np.mean([spread(posterior.condition(rates(place.assign(rate=y), law))) for y in drawn]))
    assert np.argmin(after) == list(candidates.index).index(named["row"])


def test_nothing_is_better_than_a_limit():
    x = np.linspace(0, 1, 14)
    values = np.clip(130 * np.exp(-(((x - 0.6) / 0.3) ** 2)) - 10, 0, 100)
    table = pd.DataFrame({"x": x, "yield": values})
    law = {"yield": btl.Censored(lower=0.0, upper=100.0)}
    data = btl.TaskData.from_wide(table, inputs=["x"], tasks=["yield"], likelihoods=law, units={"yield": "%"})
    posterior = btl.fit(btl.SingleTask(), data, method="map")
    candidates = pd.DataFrame({"x": [0.5, 0.57, 0.6, 0.65]})
    for score in (None, "expected_improvement"):
        chosen = suggest(posterior, candidates, target="yield", score=score, batch=1).iloc[0]
        assert chosen["gain"] < 0.05
    chosen = suggest(posterior, pd.DataFrame({"x": [0.3, 0.6, 0.62]}), target="yield", goal="learn", batch=1)
    assert chosen["row"].iloc[0] == 0  # elsewhere it is at its limit, and known


@pytest.mark.filterwarnings("ignore:Nothing on offer")
@pytest.mark.parametrize("goal", ["maximize", "minimize", "learn"])
def test_without_replicates_nothing_is_measured_again(posterior, goal):
    """Neither what the data hold nor what is pending."""
    table = frame_of()
    told = {"target": "exp", "goal": goal, "costs": COSTS, "replicates": False}
    first = suggest(posterior, table, batch=4, **told)
    pending = table.loc[first["row"], ["x0", "x1"]].assign(task=first["task"].to_numpy())
    later = suggest(posterior, table, batch=4, pending=pending, **told)
    for chosen in (first, later):
        assert all(np.isnan(table.loc[row, task]) for row, task in chosen[["row", "task"]].itertuples(index=False))
    assert not set(zip(first["row"], first["task"], strict=True)) & set(zip(later["row"], later["task"], strict=True))
    with pytest.raises(ValueError, match=r"there are \d+ that were not measured yet"):
        suggest(posterior, table, batch=50, **told)


def test_what_is_to_be_avoided_within_bounds_has_all_inputs(posterior):
    with pytest.raises(btl.DataError, match="x1"):
        suggest(posterior, {"x0": (0.0, 1.0), "x1": (0.0, 1.0)}, target="exp", avoid={"x0": 0.5, "task": "exp"})
    with pytest.raises(ValueError, match="one, if it is fixed"):
        suggest(posterior, {"x0": (0.0, 1.0), "x1": (0.5, 0.5)}, target="exp")
