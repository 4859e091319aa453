import math
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch

import bayestl as btl
from bayestl.checkpoint import Checkpoint
from bayestl.distance import matern52, rbf
from bayestl.inference.coordinates import Coordinates
from bayestl.inference.infer import infer, schedule
from bayestl.inference.mode import Mode, climb, curvature
from bayestl.inference.variational import Gaussian, Schedule, normal_points, orthogonal_normals, refine
from bayestl.models.problem import Problem
from bayestl.psis import pareto_k

from .conftest import MODELS, table


def coordinates_of(problem: Problem) -> Coordinates:
    return Coordinates(problem.program, len(problem.values))


def test_density_is_pyros_times_the_jacobian(problem):
    """log p(v) - log p(theta(v), y) is the log Jacobian of theta(v): checked against automatic differentiation."""
    coordinates = coordinates_of(problem)
    v = torch.randn(1, coordinates.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta, density = coordinates.run(v)
    trace = pyro.poutine.trace(
        pyro.poutine.condition(problem.program, {name: theta[name][0] for name in coordinates.sites})
    ).get_trace()

    def flat(u):
        values = coordinates.run(u.unsqueeze(0))[0]
        return torch.cat([values[name][0].reshape(-1) for name in coordinates.sites])

    jacobian = torch.autograd.functional.jacobian(flat, v[0])
    expected = trace.log_prob_sum() + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(density[0], expected, rtol=1e-9, atol=1e-9)


def test_gradient_agrees_with_differences(problem):
    coordinates = coordinates_of(problem)
    v = 0.5 * torch.randn(1, coordinates.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, gradient = coordinates.gradient(v)
    step = 1e-5 * torch.eye(coordinates.dim, dtype=torch.float64)
    numeric = (coordinates.density(v + step) - coordinates.density(v - step)) / 2e-5
    torch.testing.assert_close(gradient[0], numeric, rtol=1e-4, atol=1e-4)


def test_climbing_ends_where_the_gradient_vanishes(problem):
    coordinates = coordinates_of(problem)
    points, heights = climb(coordinates, torch.full((2, coordinates.dim), 0.1, dtype=torch.float64), tolerance=1e-9)
    _, gradient = coordinates.gradient(points)
    assert gradient.abs().max() < 0.02
    torch.testing.assert_close(coordinates.density(points), heights)


def hierarchical():
    """A conjugate hierarchy: every posterior moment is known."""
    m = pyro.sample("m", dist.Normal(torch.zeros(3).double(), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(m, 0.5).to_event(1), obs=torch.tensor([1.0, -2.0, 0.3]).double())


def test_laplace_and_variational_are_exact_on_a_gaussian_posterior():
    coordinates = Coordinates(hierarchical)
    points, heights = climb(coordinates, torch.zeros(1, 3, dtype=torch.float64), tolerance=1e-10)
    mode = curvature(coordinates, points[0], heights[0].item())
    y = torch.tensor([1.0, -2.0, 0.3]).double()
    variance = 1 / (1 / 4 + 1 / 0.25)
    evidence = dist.Normal(0.0, math.sqrt(4.25)).log_prob(y).sum()
    assert mode.log_evidence == pytest.approx(evidence.item(), abs=1e-6)
    # From the mode, and from a place and a basis that are both wrong.
    skew = torch.tensor([[1.5, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.4, 0.3, 0.7]]).double()
    wrong = Mode(mode.v + torch.tensor([0.3, -0.2, 0.1]).double(), 0.0, mode.basis @ skew, 0.0)
    for start, steps in ((mode, 5), (wrong, 200)):
        q, elbo, _ = refine(coordinates, start, Schedule(steps, 8), 0)
        torch.testing.assert_close(2.0 * q.centre, variance * y / 0.25, atol=1e-4, rtol=0)
        torch.testing.assert_close(4.0 * q.factor @ q.factor.mT, variance * torch.eye(3).double(), atol=1e-4, rtol=0)
        np.testing.assert_allclose(elbo[-3:], evidence.item(), atol=1e-3)


def test_steps_go_on_while_the_bound_rises():
    coordinates = Coordinates(hierarchical)
    points, heights = climb(coordinates, torch.zeros(1, 3, dtype=torch.float64), tolerance=1e-10)
    mode = curvature(coordinates, points[0], heights[0].item())
    far = Mode(mode.v + 4.0, 0.0, 0.5 * mode.basis, 0.0)
    lengths = [len(refine(coordinates, start, Schedule(12, 8), 0)[1]) for start in (mode, far)]
    assert lengths == [12, 24]
    trace = refine(coordinates, far, Schedule(12, 8), 0)[1]
    assert trace[-1] > trace[11] + 0.5


def test_refinement_raises_the_elbo_of_a_skewed_posterior():
    def skewed():
        s = pyro.sample("s", dist.LogNormal(torch.zeros(1).double(), 2.0).to_event(1))
        pyro.sample("y", dist.Poisson(s).to_event(1), obs=torch.tensor([0.0]).double())

    coordinates = Coordinates(skewed)
    points, heights = climb(coordinates, torch.zeros(1, 1, dtype=torch.float64))
    mode = curvature(coordinates, points[0], heights[0].item())
    laplace = Gaussian(mode.v, mode.basis)
    q, _, _ = refine(coordinates, mode, Schedule(60, 16), 0)
    white = normal_points(4096, 1, 0)

    def elbo(g):
        return (coordinates.density(g.push(white)) - g.log_density_of(white)).mean()

    assert elbo(q) > elbo(laplace) + 0.01


def test_priors_that_are_not_pushed_normals_keep_their_density():
    def gamma():
        pyro.sample("g", dist.Gamma(torch.full((1,), 2.0).double(), 3.0).to_event(1))

    coordinates = Coordinates(gamma)
    v = torch.linspace(-40, 40, 200_001, dtype=torch.float64).unsqueeze(-1)
    mass = coordinates.density(v).exp()
    assert torch.trapezoid(mass, v[:, 0]).item() == pytest.approx(1.0, abs=1e-6)
    mean = torch.trapezoid(mass * coordinates.theta(v)["g"][:, 0], v[:, 0])
    assert mean.item() == pytest.approx(2 / 3, abs=1e-6)


def test_discrete_sites_are_refused():
    with pytest.raises(btl.FitError, match="'k' is discrete"):
        Coordinates(lambda: pyro.sample("k", dist.Poisson(3.0)))


def test_quasi_random_normals_have_the_moments_of_normals():
    z = normal_points(1024, 5, seed=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(5).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(5).double(), atol=0.03, rtol=0)
    assert normal_points(64, 3, 1).shape == (64, 3)


def test_orthogonal_normals_are_normal_and_few_of_them_have_its_moments():
    many = torch.cat([orthogonal_normals(5, 3, seed) for seed in range(2000)])
    for column in many.T:
        assert scipy.stats.kstest(column[::5].numpy(), "norm").pvalue > 1e-3  # independent: one of each five
    assert scipy.stats.kstest(many[::5].square().sum(-1).numpy(), "chi2", (3,)).pvalue > 1e-3
    z = orthogonal_normals(2 * 17, 17, seed=0)
    assert z.mean(0).abs().max() < 1e-12
    along = torch.linalg.eigvalsh(z.T @ z / len(z))  # the squares of the lengths: no direction is left out
    assert along.min() > 0.3
    assert along.mean().item() == pytest.approx(1.0, abs=0.05)
    weight = torch.linspace(-1, 1, 17).double() / 8

    def error(points, count):  # of the mean of exp(w.z), which is exp(w.w/2)
        found = torch.stack([(points(count, 17, seed) @ weight).exp().mean() for seed in range(200)])
        return (found - (weight @ weight / 2).exp()).square().mean().sqrt()

    assert error(orthogonal_normals, 4) < 0.7 * error(normal_points, 4)
    assert [len(orthogonal_normals(count, 2, 0)) for count in (1, 2, 3, 9)] == [1, 2, 3, 9]


def test_k_hat_is_low_for_a_good_guide_and_high_for_a_bad_one():
    z = normal_points(2048, 1, 0)[:, 0]
    good = -0.5 * (z / 1.02) ** 2 + 0.5 * z**2
    bad = -0.5 * (z / 4.0) ** 2 + 0.5 * z**2
    assert pareto_k(good) < 0.5
    assert pareto_k(bad) > 0.7


def state():
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002 - what others may rely on must not change
    store = dict(pyro.get_param_store())
    return torch.random.get_rng_state().tolist(), legacy, torch.get_default_dtype(), torch.get_num_threads(), store


@pytest.mark.parametrize("method", ["variational", "map", "nuts"])
def test_same_seed_same_answer_and_no_trace_left(method, monkeypatch):
    before, cuda = state(), []
    monkeypatch.setattr("torch.cuda.manual_seed_all", cuda.append)
    options = {"method": method, "draws": 8 if method == "nuts" else None, "warmup": 8}
    first, again = (btl.fit(btl.MultiTask(), table(15), seed=3, **options) for _ in range(2))
    for name, value in first.theta.items():
        assert torch.equal(value, again.theta[name])
    assert state() == before
    assert not cuda  # nor are the generators of GPUs, which `state` cannot see, seeded
    assert first.record.method == method
    assert first.draws == {"variational": 256 + first.components, "map": 1, "nuts": 8}[method]
    if method != "map":
        other = btl.fit(btl.MultiTask(), table(15), seed=4, **options)
        assert not torch.equal(first.theta["noise"], other.theta["noise"])


def test_interrupted_while_refining_leaves_a_usable_posterior(monkeypatch, data):
    calls = []

    def gradient(self, v, original=Coordinates.gradient):
        calls.append(len(v))
        if len(v) == variational_batch and calls.count(variational_batch) > 20:
            raise KeyboardInterrupt
        return original(self, v)

    variational_batch = 16
    monkeypatch.setattr(Coordinates, "gradient", gradient)
    with pytest.warns(UserWarning, match="interrupted"):
        posterior = btl.fit(btl.MultiTask(), data)
    assert posterior.record.interrupted
    assert np.isfinite(posterior.predict({"x0": [0.5], "x1": [0.5], "phase": ["cubic"]})["mean"]).all()


@pytest.mark.parametrize("stage", ["_log_ratios", "_tail"])
def test_interrupted_after_refining_keeps_the_draws(monkeypatch, data, stage):
    whole = btl.fit(btl.MultiTask(), data)
    monkeypatch.setattr(f"bayestl.inference.infer.{stage}", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.warns(UserWarning, match="interrupted.*usable but its k-hat was not told") as told:
        posterior = btl.fit(btl.MultiTask(), data)
    assert told[0].filename == __file__  # the caller's line, not one of ours
    assert torch.equal(posterior.theta["noise"], whole.theta["noise"])
    assert posterior.record.interrupted


def test_interrupted_before_the_mode_says_so(monkeypatch, data):
    monkeypatch.setattr(Coordinates, "gradient", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="there is no posterior"):
        btl.fit(btl.MultiTask(), data)


def test_a_guide_that_is_too_narrow_is_found_out(monkeypatch, data):
    good = btl.fit(btl.MultiTask(), data, seed=2)
    assert btl.diagnose(good)["k-hat"].level != "warning"

    def narrow(*args, original=refine):
        q, trace, interrupted = original(*args)
        return Gaussian(q.centre, 0.3 * q.factor), trace, interrupted

    monkeypatch.setattr("bayestl.inference.infer.refine", narrow)
    with pytest.warns(UserWarning, match="fits badly"):
        bad = btl.fit(btl.MultiTask(), data, seed=2)
    assert bad.record.pareto_k > 1 > good.record.pareto_k
    assert btl.diagnose(bad)["k-hat"].level == "warning"
    with pytest.raises(ValueError, match="not reliable"):
        bad.reweighted()


def test_a_bad_guide_is_warned_about(monkeypatch, data):
    monkeypatch.setattr("bayestl.inference.infer.pareto_k", lambda _: 1.7)
    with pytest.warns(UserWarning, match="k-hat 1.70"):
        btl.fit(btl.MultiTask(), data)


@pytest.mark.parametrize(("inputs", "moved"), [(2, True), (16, False)])
def test_theta_moves_to_the_mode_of_all_rows_unless_inputs_go_in_families(monkeypatch, inputs, moved):
    monkeypatch.setattr("bayestl.fitting.LEARN", 30)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.random((40, inputs)), columns=[f"f: x{j}" for j in range(inputs)])
    frame["y"] = np.sin(3 * frame["f: x0"]) + 0.1 * rng.standard_normal(40)
    data = btl.TaskData.from_wide(frame, inputs=list(frame.columns[:-1]), tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0)
    record = posterior.record
    assert record.learned_from == 30
    assert ("mode of all rows" in record.seconds) == moved
    if moved:  # the weights were those of other draws
        with pytest.raises(ValueError, match="moved to the mode of all"):
            posterior.reweighted()


def test_no_start_climbs_where_the_bound_is_noise():
    """Functions 1e12 wide: terms of 1e25 cancel to a bound of 1e13. A step of the search once landed there, and stayed."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(20), "y": rng.random(20) > 0.5})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Bernoulli()})
    problem = Problem.of(btl.SingleTask(), data)
    theta = {
        "amplitude": 10.0 ** torch.arange(20, dtype=torch.float64).unsqueeze(-1),
        "y.length_scale": torch.ones(20, 1).double(),
    }
    with torch.no_grad():
        near = problem.settle({name: value[:1] for name, value in theta.items()}, None)[1].sites
        for value in (problem.settle(theta, None)[0], problem.settle(theta, near)[0], problem.approach(theta, near)):
            assert (value < 0).all()  # classes have probabilities, not densities


@pytest.mark.parametrize(
    ("told", "looks"),
    [([0.6], [1]), ([0.8, 0.9], [1, 4]), ([1.3, 1.2, 1.1, 0.95], [1, 4, 7, 10]), ([1.1] * 6, [1, 4, 7, 10, 13, 16])],
)
@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_a_k_hat_that_alarms_is_told_again_from_more_draws(monkeypatch, data, told, looks):
    seen, left = [], list(told)
    monkeypatch.setattr("bayestl.inference.infer.pareto_k", lambda ratios: seen.append(len(ratios)) or left.pop(0))
    assert btl.fit(btl.MultiTask(), data).record.pareto_k == told[-1]
    assert [count / seen[0] for count in seen] == looks
    assert not left


def test_senseless_options_are_refused(data):
    with pytest.raises(ValueError, match="`method` must be"):
        btl.fit(btl.MultiTask(), data, method="exact")
    with pytest.raises(ValueError, match="`draws` must be"):
        btl.fit(btl.MultiTask(), data, draws=0)
    with pytest.raises(ValueError, match="must be a TaskData"):
        btl.fit(btl.MultiTask(), data.to_frame())
    with pytest.raises(ValueError, match="must be a bayestl model"):
        btl.fit("multitask", data)


def test_variational_agrees_with_nuts():
    """Moments of the predictions, within a tenth of their spread, and of the log noise."""
    data = table(36)
    new = {"x0": np.linspace(0, 1, 9), "x1": np.full(9, 0.4), "phase": ["cubic"] * 9}
    vi = btl.fit(btl.MultiTask(), data, seed=0)
    nuts = btl.fit(btl.MultiTask(), data, seed=0, method="nuts", draws=200, warmup=100)
    ours, reference = vi.predict(new), nuts.predict(new)
    assert (np.abs(ours["mean"] - reference["mean"]) / reference["std"]).mean() < 0.1
    assert (np.abs(ours["std"] / reference["std"] - 1)).mean() < 0.12


@pytest.mark.filterwarnings("ignore:.*repeat another to the last digit")
@pytest.mark.parametrize("name", ["single", "multitask", "difference-dag", "latent"])
def test_ugly_tables_simply_work(name):
    """One row in a task, constant columns, collinear and repeated rows, values of any size, 1 feature or 500."""
    import pandas as pd

    rng = np.random.default_rng(0)
    base = table(18).to_frame().reset_index(drop=True)
    one_row = base[(base["task"] != "c") | (base.index == base.index[base["task"] == "c"][0])]
    cases = {
        "one row in a task": one_row,
        "constant columns": base.assign(x1=3.0, phase="cubic"),
        "constant values": base.assign(value=7.0),
        "collinear": base.assign(x1=2 * base["x0"] - 1),
        "repeated rows": pd.concat([base] * 3),
        "tiny": base.assign(value=base["value"] * 1e-12, error=np.nan),
        "huge": base.assign(value=base["value"] * 1e12, x0=base["x0"] * 1e12, error=np.nan),
        "offset": base.assign(value=base["value"] + 1e9, error=np.nan),
        "exact": base.assign(error=0.0),
    }
    for case, frame in cases.items():
        data = btl.TaskData.from_long(
            frame, inputs=["x0", "x1", "phase"], task="task", value="value", error="error", tasks=["a", "b", "c"]
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
            posterior = btl.fit(MODELS[name], data, seed=0)
            predicted = posterior.predict(frame.head(4))
        assert np.isfinite(predicted["mean"]).all(), case
        assert (predicted["std"] > 0).all(), case
    for d in (1, 500):
        names = [f"x{j}" for j in range(d)]
        frame = pd.DataFrame(rng.random((21, d)), columns=names).assign(task=["a", "b", "c"] * 7)
        frame["value"] = np.sin(4 * frame["x0"]) + 0.1 * rng.standard_normal(21)
        data = btl.TaskData.from_long(frame, inputs=names, task="task", value="value")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The variational posterior of theta fits badly")
            assert np.isfinite(btl.fit(MODELS[name], data).predict(frame)["std"]).all(), d


def test_infer_reports_what_it_did(data):
    theta, record, components, _ = infer(Problem.of(btl.Difference.chain("a", "b", "c"), data))
    plan, predicting = schedule(len(data), record.parameters, scarcest=int(data.counts.min()))
    assert len(record.elbo) == plan.steps
    assert {"mode", "curvature", "variational", "total"} <= set(record.seconds)
    assert record.evaluations > 500
    assert theta["rho"].shape == (256 + components, 2)
    assert components == predicting


def test_theta_learned_from_some_rows_is_moved_to_the_mode_of_all():
    data = drawn_from(matern52, n=240)
    some = np.arange(240) % 3 == 0
    model = btl.MultiTask(kernel=btl.Matern52())
    whole = Problem.of(model, data)
    part = Problem.of(model, data.where(some), whole.scaling)
    top, *_ = infer(whole, method="map")
    alone, _, count, _ = infer(part)
    moved, record, _, _ = infer(part, whole=whole)
    assert "mode of all rows" in record.seconds
    # Of log-normal parameters, whose draws come in antithetic pairs, the mean of the logarithms is the centre of q.
    names = ("noise", "amplitude", "private")
    goal = torch.cat([top[name][0] for name in names]).log()
    logs = [torch.cat([theta[name][:count] for name in names], -1).log() for theta in (alone, moved)]
    off = [(log.mean(0) - goal).abs().max() for log in logs]
    assert off[1] < 0.03
    assert off[0] > 3 * off[1]
    torch.testing.assert_close(logs[1].std(0), logs[0].std(0), atol=1e-6, rtol=1e-6)


# -- how smooth the functions are -------------------------------------------------------------------------------------


def drawn_from(kernel, n=300, seed=0, inputs=2):
    """A function drawn from a GP with that kernel (length scale 0.3), seen by two tasks with noise."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, inputs))
    covariance = kernel(torch.from_numpy(x / 0.3), torch.from_numpy(x / 0.3)).numpy()
    f = np.linalg.cholesky(covariance + 1e-9 * np.eye(n)) @ rng.standard_normal(n)
    frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(inputs)])
    frame = frame.assign(task=np.where(np.arange(n) % 2, "a", "b"), y=f + 0.02 * rng.standard_normal(n))
    return btl.TaskData.from_long(frame, inputs=list(frame.columns[:inputs]), task="task", value="y")


@pytest.mark.parametrize("function", [matern52, rbf])
def test_the_data_tell_how_smooth_they_are(function):
    data = drawn_from(function)
    posterior = btl.fit(btl.MultiTask(), data, seed=0, method="map", progress=False)
    expected = {matern52: btl.Matern52(), rbf: btl.RBF()}[function]
    assert posterior.model.kernel == expected
    assert type(posterior.model.kernel) is type(expected)
    # The reported gain is the ratio of the two densities at their modes, each found by a fit of its own.
    heights = [
        btl.fit(btl.MultiTask(kernel=kernel), data, seed=0, method="map", progress=False).record.modes.max()
        for kernel in (btl.Matern52(), btl.RBF())
    ]
    assert posterior.record.smoother == pytest.approx(heights[1] - heights[0], abs=0.05)
    alone = btl.fit(btl.MultiTask(kernel=expected), data, seed=0, method="map", progress=False)
    new = pd.DataFrame(data.x[:20], columns=["x0", "x1"])
    np.testing.assert_allclose(
        posterior.predict(new)["mean"].to_numpy(), alone.predict(new)["mean"].to_numpy(), atol=2e-3
    )


def test_smoothness_is_left_alone_where_it_was_given_or_cannot_be_told():
    smooth = drawn_from(rbf)
    given = btl.fit(btl.MultiTask(kernel=btl.Matern52()), smooth, seed=0, method="map", progress=False)
    assert type(given.model.kernel) is btl.Matern52
    assert math.isnan(given.record.smoother)
    few = btl.fit(btl.MultiTask(), drawn_from(rbf, n=70), seed=0, method="map", progress=False)
    assert few.model == btl.MultiTask()
    assert math.isnan(few.record.smoother)
    many = btl.fit(btl.SingleTask(), drawn_from(rbf, inputs=16), seed=0, method="map", progress=False)
    assert math.isnan(many.record.smoother)  # a family of descriptors has a kernel of its own


def test_the_choice_of_a_kernel_survives_a_file_and_an_interruption(tmp_path):
    data = drawn_from(rbf)
    posterior = btl.fit(btl.Difference.chain("a", "b"), data, seed=0, method="map", progress=False)
    posterior.save(tmp_path / "p.nc")
    again = btl.load(tmp_path / "p.nc")
    assert type(again.model.kernel) is btl.RBF
    assert again.record.smoother == posterior.record.smoother
    notes = Checkpoint(tmp_path / "notes", btl.Difference.chain("a", "b"), data, ("map", 0, None, 300, None, "cpu"))
    notes.write_theta(posterior.theta, posterior.record, posterior.components, posterior.sites)
    resumed = btl.fit(
        btl.Difference.chain("a", "b"), data, seed=0, method="map", progress=False, checkpoint=tmp_path / "notes"
    )
    assert type(resumed.model.kernel) is btl.RBF
    np.testing.assert_array_equal(
        resumed.predict({"x0": [0.5], "x1": [0.5]})["mean"], posterior.predict({"x0": [0.5], "x1": [0.5]})["mean"]
    )


# -- what a material has of its own -----------------------------------------------------------------------------------


def of_their_own(size, seed=0, materials=60, together=True):
    """Two tasks on the same materials, which have something of their own (deviation `size`) that both tasks see."""
    rng = np.random.default_rng(seed)
    x = rng.random((materials, 2))
    f = np.sin(5 * x[:, 0]) + x[:, 1] + size * rng.standard_normal(materials)
    seen = np.arange(materials) % 3 == 0
    frame = pd.DataFrame(x, columns=["x0", "x1"]).assign(
        cheap=f + 0.03 * rng.standard_normal(materials), dear=1.5 * f + 0.03 * rng.standard_normal(materials)
    )
    frame.loc[~seen, "dear"] = np.nan
    if not together:
        frame.loc[seen, "cheap"] = np.nan
    return btl.TaskData.from_wide(frame, inputs=["x0", "x1"], tasks=["cheap", "dear"])


def test_a_nugget_is_inferred_and_new_materials_are_as_uncertain_as_they_are():
    rng = np.random.default_rng(5)
    new = pd.DataFrame(rng.random((300, 2)), columns=["x0", "x1"])
    y = 1.5 * (np.sin(5 * new["x0"]) + new["x1"] + 0.3 * rng.standard_normal(300)).to_numpy()
    inside, density = {}, {}
    for name, kernel in {"default": None, "smooth": btl.Matern52()}.items():
        posterior = btl.fit(btl.MultiTask(kernel=kernel), of_their_own(0.3), seed=0, progress=False)
        low, high = posterior.predict(new, task="dear", quantiles=[0.05, 0.95])["quantile"].to_numpy()
        inside[name] = ((low < y) & (y < high)).mean()
        test = btl.TaskData.from_wide(new.assign(dear=y), inputs=["x0", "x1"], tasks=["dear"])
        density[name] = float(posterior.score(test)["log_density"].mean())
    assert posterior.model.kernel == btl.Matern52()
    assert 0.85 < inside["default"] < 0.95
    assert inside["smooth"] < 0.85
    assert density["default"] > density["smooth"] + 0.1


def test_a_nugget_vanishes_where_inputs_tell_all():
    posterior = btl.fit(btl.MultiTask(), of_their_own(0.0), seed=0, progress=False)
    assert isinstance(posterior.model.kernel, btl.Nugget)
    assert float(posterior.theta["shared.nugget"].median()) < 0.003  # a deviation of a twentieth at most


def test_a_known_source_tells_what_the_target_has_of_its_own():
    data = of_their_own(0.3)
    posterior = btl.fit(btl.MultiTask(), data, seed=0, progress=False)
    frame = pd.DataFrame(data.x[data.task_index == 0], columns=["x0", "x1"])
    known = posterior.predict(frame, task="dear", noise=False)["std"].to_numpy()
    assert known.mean() < 0.15  # 0.45 of its own, of which the source has told nearly all


def test_a_nugget_is_only_for_joint_models_of_tasks_that_share_materials(tmp_path):
    def kernel_of(model, data, **options):
        return btl.fit(model, data, method="map", seed=0, progress=False, **options).model.kernel

    data = of_their_own(0.3)
    default = btl.MultiTask().kernel
    assert kernel_of(btl.MultiTask(), data) == btl.Nugget()
    assert kernel_of(btl.MultiTask(), of_their_own(0.3, together=False)) == default
    assert kernel_of(btl.SingleTask(), data) == default
    assert kernel_of(btl.MultiTask(kernel=btl.RBF()), data) == btl.RBF()
    assert (
        kernel_of(btl.MultiTask(), data, pairs=20) == default
    )  # pairs cannot stand for what each material has of its own
    posterior = btl.fit(btl.Difference.chain("cheap", "dear"), data, method="map", seed=0, progress=False)
    posterior.save(tmp_path / "p.nc")
    again = btl.load(tmp_path / "p.nc")
    assert again.model == posterior.model
    new = {"x0": [0.5], "x1": [0.5]}
    np.testing.assert_array_equal(again.predict(new)["mean"], posterior.predict(new)["mean"])


def test_values_far_from_all_others_are_named():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(40), "z": rng.random(40), "y": rng.standard_normal(40)})

    def fitted(frame, likelihood=None):
        data = btl.TaskData.from_wide(
            frame, inputs=["x", "z"], tasks=["y"], likelihoods={"y": likelihood or btl.Gaussian()}
        )
        return btl.fit(btl.SingleTask(), data, method="map")

    for column, likelihood in (("z", None), ("y", None)):
        odd = frame.copy()
        odd.loc[3, column] = -8888.0
        with pytest.warns(UserWarning, match=rf"'{column}' holds values a thousand.*rows 3 \(-8888\)"):
            fitted(odd, likelihood)
        odd.loc[3, column] = -9999.0
        with pytest.warns(UserWarning, match=rf"'{column}' is -9999 in rows 3, and .* in all others: a code"):
            fitted(odd, likelihood)
    odd = frame.copy()
    odd.loc[3, "y"] = -9999.0
    fitted(odd, btl.StudentT())  # warnings are errors here


@pytest.mark.parametrize("wrong", [1e3, -9999.0, 1e6])
def test_a_gross_outlier_leaves_a_student_law_as_it_was(wrong):
    """The scale was the standard deviation of all: with an outlier of a thousand deviations every other row was noise."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(60)})
    truth = np.sin(6 * frame["x"])
    frame["y"] = truth + 0.05 * rng.standard_normal(60)

    def error(frame):
        data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.StudentT()})
        predicted = btl.fit(btl.SingleTask(), data, method="map").predict(frame[["x"]], "y", noise=False)["mean"]
        return float(np.sqrt(np.mean((predicted.to_numpy().ravel() - truth) ** 2)))

    right = error(frame)
    frame.loc[3, "y"] = wrong
    assert error(frame) < 1.3 * right


def test_rounding_is_no_variation_of_an_input():
    """Sums of a composition's fractions agree up to rounding, which had the weight of any other descriptor."""
    rng = np.random.default_rng(0)
    x = rng.random(30)
    frame = pd.DataFrame({"x": x, "c": 14 + 2e-15 * rng.integers(-1, 2, 30), "y": np.sin(6 * x)})
    data = btl.TaskData.from_wide(frame, inputs=["x", "c"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, method="map")
    at = pd.DataFrame({"x": [0.3, 0.3], "c": [14.0, 14 * (1 + 1e-12)]})
    mean = posterior.predict(at, "y")["mean"].to_numpy().ravel()
    assert mean[0] == pytest.approx(mean[1], rel=1e-9)


def test_an_interrupt_stops_the_loops_around_a_fit(monkeypatch, data):
    """They would go on with an unfinished posterior as if nothing had been."""
    from bayestl.sklearn import TransferRegressor

    monkeypatch.setattr("bayestl.inference.infer._log_ratios", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    frame = data.to_frame().query("task == 'a'")
    calls = [
        lambda: btl.fit_best(data, target="a"),
        lambda: btl.transfer_report(data, "a"),
        lambda: TransferRegressor().fit(frame[["x0", "x1"]], frame["value"]),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
            call()


@pytest.mark.parametrize("rows", [19, 20])
def test_the_mode_of_many_kinds_of_tasks_does_not_depend_on_the_start(rows):
    """Sites that lagged behind theta ended the climb up to 150 nats below the mode."""
    rng = np.random.default_rng(rows)
    n, x = 30, rng.random(30)
    f = np.sin(5 * x)
    frame = pd.DataFrame(
        {"x": x, "low": np.where(np.arange(n) % 2, 0.0, 0.3), "high": np.where(np.arange(n) % 3, 1.0, 0.8)}
    )
    frame["s"] = f + 0.05 * rng.normal(size=n)
    frame["y"] = np.clip(f + 0.1 * rng.normal(size=n), frame["low"], frame["high"])
    frame["b"] = f > 0
    frame["rating"] = np.where(f < -0.3, 3, np.where(f < 0.5, 7, 11))
    laws = {
        "y": btl.Censored(lower="low", upper="high"),
        "b": btl.Bernoulli(),
        "rating": btl.Ordinal(),
        "s": btl.StudentT(),
    }
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["s", "y", "b", "rating"], likelihoods=laws)
    modes = [btl.fit(btl.MultiTask(), data, method="map", seed=seed).record.modes.max() for seed in (0, 1, 2)]
    assert np.ptp(modes) < 0.05


@pytest.mark.parametrize(("rows", "expected"), [(20, 1), (300, 2)])
def test_few_rows_are_left_to_one_thread(monkeypatch, rows, expected):
    from bayestl import fitting

    before, used = torch.get_num_threads(), []
    monkeypatch.setattr(fitting, "infer", lambda *given: used.append(torch.get_num_threads()) or infer(*given))
    x = np.linspace(0, 1, rows)
    data = btl.TaskData.from_wide(pd.DataFrame({"x": x, "y": np.sin(6 * x)}), inputs=["x"], tasks=["y"])
    try:
        torch.set_num_threads(2)
        btl.fit(btl.SingleTask(), data, method="map", progress=False)
        assert (used, torch.get_num_threads()) == ([expected], 2)
    finally:
        torch.set_num_threads(before)
