"""One contract, held by every model; and what each model promises on its own."""

import dataclasses

import gpytorch
import numpy as np
import pandas as pd
import pyro
import pytest
import torch

import bayestl as btl
from bayestl import priors
from bayestl.archive import prior_draws
from bayestl.models.multitask import correlation_factor
from bayestl.models.problem import Problem
from bayestl.scaling import Pairs, Scaling

from .conftest import draw_theta, table


def pairs_of(problem: Problem, n: int = 9, seed: int = 3) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, problem.points.x.shape[1], dtype=torch.float64, generator=g)
    return Pairs(x, torch.randint(0, 3, (n,), generator=g))


# -- the contract -----------------------------------------------------------------------------------------------------


def test_covariance_is_symmetric_and_positive(problem):
    theta = draw_theta(problem, 5)
    k = problem.model.covariance(theta, problem.points, problem.points, problem.layout)
    torch.testing.assert_close(k, k.mT, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(k).min() > -1e-9 * k.diagonal(dim1=-2, dim2=-1).max()


def test_variance_is_the_diagonal(problem):
    theta, a = draw_theta(problem, 3), pairs_of(problem)
    k = problem.model.covariance(theta, a, a, problem.layout)
    torch.testing.assert_close(
        problem.model.variance(theta, a, problem.layout).expand(3, -1), k.diagonal(dim1=-2, dim2=-1)
    )


def test_batched_equals_looped(problem):
    theta, a = draw_theta(problem, 4), pairs_of(problem)
    batched = problem.model.covariance(theta, a, problem.points, problem.layout)
    for s in range(4):
        one = {name: value[s] for name, value in theta.items()}
        looped = problem.model.covariance(one, a, problem.points, problem.layout)
        torch.testing.assert_close(batched[s], looped, rtol=0, atol=1e-12)


def test_the_cross_covariance_that_predicts_is_the_covariance(problem):
    theta, x = draw_theta(problem, 2), pairs_of(problem).x
    for o, cross in enumerate(problem.model.cross(theta, x, [0, 1, 2], problem.points, problem.layout)):
        at = Pairs(x, torch.full((len(x),), o))
        whole = problem.model.covariance(theta, at, problem.points, problem.layout)
        torch.testing.assert_close(cross.expand_as(whole), whole, rtol=0, atol=1e-12)


def test_row_order_does_not_matter(model, data):
    order = np.random.default_rng(0).permutation(len(data))
    shuffled = data.to_frame().iloc[order].reset_index(drop=True)
    other = btl.TaskData.from_long(
        shuffled, inputs=["x0", "x1", "phase"], task="task", value="value", error="error", tasks=list(data.names),
        units={"a": "eV", "b": "eV", "c": "eV"},
    )  # fmt: skip
    here, there = Problem.of(model, data), Problem.of(model, other)
    theta = draw_theta(here, 3)
    torch.testing.assert_close(
        here.marginal(theta).log_prob(here.values), there.marginal(theta).log_prob(there.values), rtol=1e-10, atol=1e-10
    )


def test_gradients_are_finite_at_repeated_points(model, data):
    problem = Problem.of(model, data.append(data))
    theta = {name: value.requires_grad_() for name, value in draw_theta(problem, 2).items()}
    value = problem.marginal(theta).log_prob(problem.values).sum()
    used = [t for t in theta.values() if t.requires_grad]
    for gradient in torch.autograd.grad(value, used, allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


def test_pyro_sees_the_density_that_torch_computes(problem):
    trace = pyro.poutine.trace(problem.program).get_trace()
    trace.compute_log_prob()
    theta = {name: trace.nodes[name]["value"] for name in problem.parameters()}
    expected = torch.distributions.MultivariateNormal(
        torch.zeros_like(problem.values), problem.observed_covariance(theta)
    ).log_prob(problem.values)
    torch.testing.assert_close(trace.nodes["y"]["log_prob_sum"], expected)


def coregionalisation(model, theta, layout):
    """The matrices B_q and the length-scale sites, written again from the papers, one draw, without bayestl's algebra."""
    names, t = layout.tasks, len(layout.tasks)
    get = {name: value.numpy() for name, value in theta.items()}
    if isinstance(model, btl.SingleTask):
        return np.eye(t), [(np.diag(np.eye(t)[o] * get["amplitude"][o] ** 2), name) for o, name in enumerate(names)]
    if isinstance(model, btl.MultiTask):
        a = get["loading"]
        return np.eye(t), [(a @ a.T, "shared"), (np.diag(get["private"] ** 2), "separate")]
    if isinstance(model, btl.Difference):
        p = np.zeros((t, t))
        for rho, (o, parent) in zip(get["rho"], model.edges(layout), strict=True):
            p[o, parent] = rho
        r = sum(np.linalg.matrix_power(p, k) for k in range(t))  # (I - P)^-1 as a sum over paths
        blocks = [(np.outer(r[:, s], r[:, s]) * get["amplitude"][s] ** 2, name) for s, name in enumerate(names)]
        return r @ r.T, blocks
    z = get["embedding"]
    shared = get["common"] ** 2 + get["amplitude"] ** 2 * z @ z.T
    return 1 + get["mean_spread"] ** 2 * np.eye(t), [(shared, "shared"), (np.diag(get["private"] ** 2), "separate")]


def test_agrees_with_gpytorch_at_fixed_parameters(problem):
    """Posterior mean and covariance of an ExactGP built from GPyTorch's own index and Matern kernels, to 1e-8."""
    torch.set_default_dtype(torch.float64)
    try:
        theta = {name: value[0] for name, value in draw_theta(problem, 1, seed=5).items()}
        constant, blocks = coregionalisation(problem.model, theta, problem.layout)
        columns = problem.points.x.shape[1]
        groups = list(problem.layout.groups)

        class Exact(gpytorch.models.ExactGP):
            def __init__(self, inputs, y, likelihood):
                super().__init__(inputs, y, likelihood)
                self.kernels = torch.nn.ModuleList()
                for _, name in blocks:
                    kernel = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=columns)
                    kernel.lengthscale = theta[f"{name}.length_scale"][groups]
                    self.kernels.append(kernel)

            def forward(self, x, o):
                total = torch.from_numpy(constant)[o.squeeze(-1)][:, o.squeeze(-1)]
                for (weights, _), kernel in zip(blocks, self.kernels, strict=True):
                    b = torch.from_numpy(weights)[o.squeeze(-1)][:, o.squeeze(-1)]
                    total = total + b * kernel(x).to_dense()
                return gpytorch.distributions.MultivariateNormal(torch.zeros(len(x)), total)

        noise = problem.noise_variance(theta)
        likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise)
        points = (problem.points.x, problem.points.output.unsqueeze(-1))
        gp = Exact(points, problem.values, likelihood)
        at = pairs_of(problem)

        likelihood_value = problem.marginal(theta).log_prob(problem.values)
        with gpytorch.settings.fast_computations(False, False, False), torch.no_grad():
            gp.train()
            theirs = likelihood(gp(*points), *points).log_prob(problem.values)
            torch.testing.assert_close(likelihood_value, theirs, rtol=1e-8, atol=1e-8)
            gp.eval()
            predicted = gp(at.x, at.output.unsqueeze(-1))
            mean, covariance = predicted.mean, predicted.covariance_matrix

        data = table()
        posterior = btl.Posterior(
            problem.model, data, problem.model.scaling(data), {name: value[None] for name, value in theta.items()}, None
        )
        regression = posterior._regression
        solved = regression.solve(slice(0, 1))
        ours, ours_covariance, _ = regression.joint(theta, solved[0], at)
        torch.testing.assert_close(ours, mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours_covariance, covariance, rtol=1e-8, atol=1e-8)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["multitask", "difference", "latent"])
def test_runs_under_pyros_own_inference(name):
    from .conftest import MODELS

    program = MODELS[name].pyro_model(table(15))
    with torch.random.fork_rng(devices=[]):
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        guide = pyro.infer.autoguide.AutoNormal(program)
        svi = pyro.infer.SVI(program, guide, pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO())
        losses = [svi.step() for _ in range(60)]
        assert np.mean(losses[-10:]) < np.mean(losses[:10])
        draws = pyro.infer.Predictive(program, guide=guide, num_samples=3)()
        assert draws["noise"].shape[0] == 3
        parallel = pyro.infer.Predictive(program, num_samples=3, parallel=True)()
        assert parallel["noise"].shape[0] == 3
        chain = pyro.infer.MCMC(
            pyro.infer.NUTS(program, max_tree_depth=2), num_samples=3, warmup_steps=3, disable_progbar=True
        )
        chain.run()
        site = {"difference": "rho", "latent": "private_offset"}.get(name, "private")
        assert chain.get_samples()[site].isfinite().all()
        pyro.clear_param_store()


# -- what each promises -----------------------------------------------------------------------------------------------


def test_joint_difference_equals_subtraction_on_nested_noise_free_data():
    """With rho = 1, no noise and nested rows the joint model is the GP on the differences plus the source's values."""
    rng = np.random.default_rng(0)
    x = rng.random(18)
    low = np.sin(5 * x)
    frame = pd.DataFrame({"x": x, "low": low, "high": np.where(np.arange(18) < 8, low + 0.5 * x, np.nan)})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["low", "high"])
    model = btl.Difference.chain("low", "high", rho=1.0)
    scaling = Scaling.of_inputs(data, np.zeros(2), np.ones(2))
    problem = Problem.of(model, data, scaling)
    theta = draw_theta(problem, 1)
    theta["noise"] = torch.full((1, 2), 1e-9, dtype=torch.float64)
    theta["high.length_scale"] = theta["high.length_scale"].clamp_max(0.3)
    theta["low.length_scale"] = theta["low.length_scale"].clamp_max(0.2)
    joint = btl.Posterior(model, data, scaling, theta, None)
    # At source points, where the source's value is known: prediction = that value + the GP of the differences.
    at = frame.iloc[8:]
    predicted = joint.predict(at, task="high", noise=False)
    differences = frame.iloc[:8].assign(delta=lambda f: f["high"] - f["low"])
    single = btl.TaskData.from_wide(differences, inputs=["x"], tasks=["delta"])
    own = dataclasses.replace(scaling, location=np.zeros(1), scale=np.ones(1))
    theta_one = {
        "amplitude": theta["amplitude"][:, 1:], "noise": theta["noise"][:, 1:],
        "delta.length_scale": theta["high.length_scale"],
    }  # fmt: skip
    alone = btl.Posterior(btl.SingleTask(), single, own, theta_one, None).predict(at, task="delta", noise=False)
    np.testing.assert_allclose(predicted["mean"], at["low"] + alone["mean"].values, atol=2e-3)
    np.testing.assert_allclose(predicted["std"], alone["std"], atol=3e-3)


def test_partial_correlations_make_a_correlation_matrix_of_any_sign():
    partial = torch.tensor([[0.9, -0.8, 0.3], [0.0, 0.0, 0.0]], dtype=torch.float64)
    factor = correlation_factor(partial, 3)
    c = factor @ factor.mT
    torch.testing.assert_close(c.diagonal(dim1=-2, dim2=-1), torch.ones(2, 3, dtype=torch.float64))
    assert c[0, 1, 0].item() == pytest.approx(0.9)
    assert c[0, 2, 0].item() == pytest.approx(-0.8)
    torch.testing.assert_close(c[1], torch.eye(3, dtype=torch.float64))


def test_bartlett_embedding_has_the_isotropic_law():
    """Z Z^T has the mean and variance that unrestricted normal embeddings give it."""
    problem = Problem.of(btl.LatentTask(dim=2), table())
    z = prior_draws(problem, 20_000, seed=0)["embedding"]
    gram = z @ z.mT
    torch.testing.assert_close(gram.mean(0), 2 * torch.eye(3, dtype=torch.float64), atol=0.1, rtol=0)
    off = gram[:, [0, 0, 1], [1, 2, 2]]
    torch.testing.assert_close(off.var(0), torch.full((3,), 2.0, dtype=torch.float64), atol=0.2, rtol=0)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(diagonal.var(0), torch.full((3,), 4.0, dtype=torch.float64), atol=0.5, rtol=0)


def test_a_new_task_is_drawn_as_the_others_are():
    """Tasks are exchangeable: under the prior sizes of a new one have the law of the others', and as much in common with them."""
    model, draws = btl.LatentTask(dim=2), 4000
    theta = prior_draws(Problem.of(model, table()), draws, seed=0)
    for outputs, noisy in ((1, True), (3, False)):
        size = model.white_size(theta, outputs, noisy)
        white = torch.randn(draws, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        grown = model.with_new_task(theta, None, white, outputs, noisy)
        assert grown["embedding"].shape == (draws, 3 + outputs, 2)
        for name, mean, own, among in (("private", -2.5, 1.0, 0.36), ("noise", -2.0, 1.25**0.5, 0.8)):
            sizes = grown[name].log()
            assert sizes.shape[-1] == 3 + (name == "private" or noisy)
            torch.testing.assert_close(sizes.mean(0), torch.full_like(sizes[0], mean), atol=0.07, rtol=0)
            torch.testing.assert_close(sizes.std(0), torch.full_like(sizes[0], own), atol=0.07, rtol=0)
            together = torch.corrcoef(sizes.mT)[0, 1:]
            torch.testing.assert_close(together, torch.full_like(together, among), atol=0.07, rtol=0)


def test_fidelity_graphs_are_checked():
    with pytest.raises(btl.DataError, match="cycle: 'a' -> 'b' -> 'c' -> 'a'"):
        btl.Difference({"a": ["b"], "b": ["c"], "c": ["a"]})
    with pytest.raises(btl.DataError, match="string 'pbe'"):
        btl.Difference({"exp": "pbe"})
    with pytest.raises(btl.DataError, match="do not hold: 'z'"):
        btl.fit(btl.Difference({"a": ["z"]}), table())
    assert btl.Difference({"c": ["b"], "b": ["a"]}) == btl.Difference.chain("a", "b", "c")
    assert btl.Difference().edges(Problem.of(btl.Difference(), table()).layout) == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: btl.MultiTask(rank=0), lambda: btl.MultiTask(rank=2.7), lambda: btl.LatentTask(dim=0),
        lambda: btl.LatentTask(dim=1.9), lambda: btl.Difference(rho=float("nan")), lambda: btl.MultiTask(kernel="rbf"),
    ],
)  # fmt: skip
def test_senseless_choices_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.filterwarnings("ignore:Input .* is it in another unit")
@pytest.mark.parametrize(
    "model", [btl.MultiTask(), btl.Difference.chain("a", "b"), btl.LatentTask()], ids=lambda m: type(m).__name__
)
def test_a_source_far_away_leaves_the_target_alone(model):
    """Source rows so far from the target's that no function can reach: the prediction is as without them."""
    rng = np.random.default_rng(0)
    near = pd.DataFrame({"x": rng.random(12), "task": "b"}).assign(y=lambda f: np.sin(5 * f["x"]))
    far = pd.DataFrame({"x": rng.random(12) + 1e5, "task": "a"}).assign(y=lambda f: np.cos(5 * f["x"]))
    data = btl.TaskData.from_long(
        pd.concat([far, near], ignore_index=True), inputs=["x"], task="task", value="y", tasks=["a", "b"]
    )
    scaling = Scaling.of_inputs(data, np.zeros(2), np.ones(2), unscaled={"x"})
    problem = Problem.of(model, data, scaling)
    theta = draw_theta(problem, 4)
    # Constants reach any distance: the means of the tasks are taken as known here.
    at = Pairs(torch.linspace(0, 1, 5, dtype=torch.float64).unsqueeze(-1), torch.ones(5, dtype=torch.int64))
    cross = problem.model.covariance(
        theta, at, problem.points.take((problem.points.output == 0).nonzero().squeeze(-1)), problem.layout
    )
    constant = next(iter(model.terms(theta, problem.layout))).weights[..., 1:, :1]
    torch.testing.assert_close(cross, constant.expand_as(cross), rtol=0, atol=1e-12)


def test_a_chain_takes_its_tasks_one_by_one():
    with pytest.raises(btl.DataError, match=r"one by one, Difference.chain\('pbe', 'exp'\); got \['a', 'b'\]"):
        btl.Difference.chain(["a", "b"])
    for wrong in ("a", ["a", "b"]):
        with pytest.raises(btl.DataError, match=r"for a chain write Difference\.chain"):
            btl.Difference(wrong)


def test_parents_take_the_place_of_a_task_that_is_left_out():
    graph = btl.Difference({"exp": ["hse", "scan"], "hse": ["pbe"], "scan": ["pbe", "lda"]})
    assert graph.of_tasks(["pbe", "lda", "exp"]) == btl.Difference({"exp": ["pbe", "lda"]})
    assert graph.of_tasks(["pbe", "hse", "scan", "lda", "exp"]) == graph
    assert btl.Difference.chain("a", "b", "c").of_tasks(["b", "c"]) == btl.Difference.chain("b", "c")
    assert btl.Difference().of_tasks(["a"]) == btl.Difference()


def test_a_task_outside_the_graph_is_pointed_out():
    with pytest.warns(UserWarning, match="Tasks 'c' are not in the fidelity graph"):
        btl.fit(btl.Difference.chain("a", "b"), table(20), method="map", seed=0)


def test_ordered_classes_have_a_plain_program_too():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 9), "y": pd.Categorical(list("aabbbccca"), list("abc"), ordered=True)})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods={"y": btl.Ordinal()})
    trace = pyro.poutine.trace(btl.SingleTask().pyro_model(data)).get_trace()
    assert np.isfinite(float(trace.log_prob_sum()))


def test_a_middle_fidelity_seen_once_is_pointed_out():
    x = np.linspace(0, 1, 8)
    frame = pd.DataFrame({"x": x, "a": x, "b": x, "c": x})
    frame.loc[1:, "b"] = np.nan
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["a", "b", "c"])
    with pytest.warns(UserWarning, match=r"Tasks 'b' lie between others.*single input"):
        btl.Difference.chain("a", "b", "c").check(data)
    btl.Difference.chain("a", "c", "b").check(data)
    btl.Difference.chain("a", "b", "c", rho=1.0).check(data)
    classes = btl.TaskData.from_wide(frame[["x"]].assign(a=x > 0.5, c=x > 0.3), inputs=["x"], tasks=["a", "c"])
    assert np.isfinite(btl.Difference.chain("a", "c", rho=1.0).scaling(classes).scale).all()


def test_factors_among_many_parents_are_smaller():
    """Five have the law of a single one each; the typical one of ten is an eighth of that, and some are as large all the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        one, few, many = (priors.slopes([n] * n).sample((20_000,)).abs() for n in (1, 5, 10))
    torch.testing.assert_close(few.median(), one.median(), rtol=0.05, atol=0.0)
    assert many.median() < 0.15 * few.median()
    assert (many.amax(-1) > 0.7).double().mean() > 0.25
