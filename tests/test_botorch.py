"""BoTorch models: agreement with `predict`, `sample` and `condition`, gradients, BoTorch's acquisition functions."""
# ruff: noqa: N803 (BoTorch calls its tensors X and Y)

import builtins
import dataclasses
import importlib
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import bayestl as btl
from bayestl.condense import condense
from bayestl.scaling import Pairs

from .conftest import grid, table

pytest.importorskip("botorch")

from botorch.acquisition import (
    LogExpectedImprovement,
    PosteriorMean,
    qKnowledgeGradient,
    qLogExpectedImprovement,
    qLogNoisyExpectedImprovement,
    qMultiFidelityKnowledgeGradient,
)
from botorch.acquisition.cost_aware import InverseCostWeightedUtility
from botorch.acquisition.fixed_feature import FixedFeatureAcquisitionFunction
from botorch.acquisition.max_value_entropy_search import qMaxValueEntropy
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.acquisition.utils import project_to_target_fidelity
from botorch.exceptions.errors import UnsupportedError
from botorch.models.cost import AffineFidelityCostModel
from botorch.optim import optimize_acqf, optimize_acqf_discrete, optimize_acqf_mixed
from botorch.posteriors.fully_bayesian import GaussianMixturePosterior
from botorch.sampling import SobolQMCNormalSampler
from botorch.test_functions import AugmentedBranin, AugmentedHartmann
from botorch.utils.transforms import is_ensemble, is_fully_bayesian

from bayestl.botorch import as_botorch_model

DRAWS = 5
SEARCH = {"num_restarts": 2, "raw_samples": 16, "options": {"maxiter": 25}}
WIDER = {**SEARCH, "num_restarts": 4, "raw_samples": 128}  # knowledge gradients have many inputs: one of each fantasy


def tensor(posterior: btl.Posterior, frame: pd.DataFrame) -> Tensor:
    return torch.from_numpy(posterior.data.encode(frame))


def of_draws(posterior: btl.Posterior, draws: int = DRAWS) -> btl.Posterior:
    return dataclasses.replace(posterior, components=draws)


def sampler(*shape: int) -> SobolQMCNormalSampler:
    return SobolQMCNormalSampler(torch.Size(shape), seed=0)


def new_rows(posterior: btl.Posterior, frame: pd.DataFrame, task: str, y: np.ndarray) -> btl.TaskData:
    """Rows of unknown error in the form that `condition` takes."""
    return btl.TaskData.from_long(
        frame.assign(source=task, y=y), inputs=list(frame), task="source", value="y", tasks=[task],
        units={task: "eV", "x0": "nm"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def own() -> btl.Posterior:
    """Three tasks, a categorical input, some known errors."""
    return btl.fit(btl.MultiTask(), table(), seed=0)


@pytest.fixture(scope="module")
def toy() -> btl.Posterior:
    """A function with its maximum at (0.6, 0.3), measured six times, and a biased source, 20 times; values of 1e5."""
    rng = np.random.default_rng(0)
    x = rng.random((26, 2))
    y = 1e5 * (1 - 4 * ((x - [0.6, 0.3]) ** 2).sum(1))
    frame = pd.DataFrame(x, columns=["u", "v"]).assign(source=["cheap"] * 20 + ["dear"] * 6, y=y)
    frame.loc[:19, "y"] *= 0.8 + 0.1 * x[:20, 0]
    data = btl.TaskData.from_long(frame, inputs=["u", "v"], task="source", value="y", tasks=["cheap", "dear"])
    return btl.fit(btl.MultiTask(), data, seed=0)


BOUNDS = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def fidelities(function, levels: dict[str, float], counts: list[int]) -> btl.Posterior:
    """Observe BoTorch's augmented function, to be maximised, at some levels of its last input, each a task."""
    torch.manual_seed(0)
    low, high = function.bounds.double()
    parts = []
    for (name, level), count in zip(levels.items(), counts, strict=True):
        x = (
            torch.quasirandom.SobolEngine(len(low), scramble=True, seed=len(parts)).draw(count).double() * (high - low)
            + low
        )
        x[:, -1] = level
        frame = pd.DataFrame(x[:, :-1].numpy(), columns=[f"x{j}" for j in range(len(low) - 1)])
        parts.append(frame.assign(level=name, y=function(x).numpy()))
    frame = pd.concat(parts, ignore_index=True)
    data = btl.TaskData.from_long(
        frame, inputs=list(frame.columns[:-2]), task="level", value="y", tasks=list(levels)
    )  # fmt: skip
    return btl.fit(btl.MultiTask(), data, seed=0)


# -- agreement with bayestl -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("task", ["a", "c"])
def test_moments_are_those_of_predict(posterior, task, noise):
    frame = grid(7)
    found = as_botorch_model(posterior, task, draws=DRAWS).posterior(tensor(posterior, frame), observation_noise=noise)
    expected = of_draws(posterior).predict(frame, task=task, noise=noise, quantiles=[0.1])
    assert isinstance(found, GaussianMixturePosterior)
    assert found.mean.shape == (DRAWS, 7, 1)
    np.testing.assert_allclose(found.mixture_mean[:, 0], expected["mean"], rtol=1e-7)
    np.testing.assert_allclose(found.mixture_variance[:, 0].sqrt(), expected["std"], rtol=1e-6)
    np.testing.assert_allclose(found.quantile(torch.tensor(0.1))[:, 0], expected["quantile"][0], rtol=1e-5)


def test_covariance_is_that_of_regression_and_of_samples(own):
    frame = grid(4)
    X = tensor(own, frame)
    both = torch.cat([torch.cat([X, torch.full((4, 1), t).double()], -1) for t in (0, 2)])
    found = as_botorch_model(own, draws=DRAWS, mixture=False).posterior(both)
    joint = of_draws(own).sample(frame, ["a", "c"], draws=40_000, seed=0).values
    drawn = np.moveaxis(joint, -1, 1).reshape(len(joint), -1)
    scale = drawn.std(0)
    np.testing.assert_allclose(
        found.distribution.covariance_matrix.numpy() / np.outer(scale, scale), np.corrcoef(drawn.T), atol=0.03
    )
    at, _ = as_botorch_model(own, draws=DRAWS)._encode(both)
    regression = of_draws(own)._regression
    each = [
        regression.joint({name: v[i] for name, v in theta.items()}, solved[i], Pairs(*at))[1]
        for _, theta, solved in regression.batches()
        for i in range(len(solved.alpha))
    ]
    mixed = as_botorch_model(own, draws=DRAWS).posterior(both).distribution.covariance_matrix
    scale = torch.tensor(own.scaling.scale[[0] * 4 + [2] * 4])
    torch.testing.assert_close(mixed, torch.stack(each) * torch.outer(scale, scale), rtol=1e-6, atol=1e-7)


def test_one_normal_has_the_moments_of_the_mixture(own):
    X = tensor(own, grid(5)).unsqueeze(0)
    model, whole = (as_botorch_model(own, "c", draws=DRAWS, mixture=mixture) for mixture in (False, True))
    assert not is_ensemble(model)
    assert model.batch_shape == torch.Size([])
    found, expected = model.posterior(X), whole.posterior(X)
    assert found.mean.shape == (1, 5, 1)
    torch.testing.assert_close(found.mean, expected.mixture_mean)
    torch.testing.assert_close(found.variance, expected.mixture_variance)
    torch.testing.assert_close(
        found.distribution.covariance_matrix, expected.mixture_covariance_matrix.to_dense(), rtol=1e-6, atol=1e-9
    )


def test_batches_are_computed_one_by_one(own, monkeypatch):
    X = torch.stack([tensor(own, grid(3, seed=s)) for s in range(12)]).reshape(4, 3, 3, 3)
    model = as_botorch_model(own, "b", draws=DRAWS)
    found = model.posterior(X)
    assert found.mean.shape == (4, 3, DRAWS, 3, 1)
    for i, j in ((0, 0), (3, 2)):
        one = model.posterior(X[i, j])
        torch.testing.assert_close(found.mean[i, j], one.mean)
        torch.testing.assert_close(
            found.distribution.covariance_matrix[i, j], one.distribution.covariance_matrix, rtol=1e-6, atol=1e-9
        )
    monkeypatch.setattr("bayestl.botorch.WORKING_BYTES", 1.0)
    monkeypatch.setattr("bayestl.botorch.BLOCK_BYTES", 1.0)
    again = as_botorch_model(own, "b", draws=DRAWS).posterior(X)
    torch.testing.assert_close(again.mean, found.mean)
    torch.testing.assert_close(
        again.distribution.covariance_matrix, found.distribution.covariance_matrix, rtol=1e-6, atol=1e-9
    )


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
@pytest.mark.parametrize("mixture", [False, True])
def test_condition_on_observations_is_condition(own, mixture):
    first, second, at = grid(4, seed=5), grid(2, seed=6), grid(6)
    y = np.linspace(4.0, 8.0, 6)
    task = "b"
    X = tensor(own, at).unsqueeze(-2)
    model = as_botorch_model(own, task, draws=DRAWS, mixture=mixture)
    once = model.condition_on_observations(tensor(own, first), torch.tensor(y[:4, None]))
    twice = once.condition_on_observations(tensor(own, second), torch.tensor(y[4:, None]))
    expected = of_draws(own)
    for conditioned, frame, values in ((once, first, y[:4]), (twice, second, y[4:])):
        expected = expected.condition(new_rows(own, frame, task, values))
        wanted = expected.predict(at, task=task, noise=False)
        found = conditioned.posterior(X)
        mean, variance = (found.mixture_mean, found.mixture_variance) if mixture else (found.mean, found.variance)
        np.testing.assert_allclose(mean[:, 0, 0], wanted["mean"], rtol=1e-6)
        np.testing.assert_allclose(variance[:, 0, 0].sqrt(), wanted["std"], rtol=1e-5)
    assert model.posterior(X).mean.shape == found.mean.shape  # the first model is as it was
    assert not model._stages


def test_conditions_in_batches_and_by_draw(own):
    X, at = tensor(own, grid(2, seed=5)), tensor(own, grid(3))
    model = as_botorch_model(own, "b", draws=DRAWS)
    Y = torch.arange(2.0 * DRAWS, dtype=torch.float64).reshape(DRAWS, 2, 1)
    by_draw = model.condition_on_observations(X, Y).posterior(at)
    for s in (0, DRAWS - 1):
        alone = model.condition_on_observations(X, Y[s]).posterior(at)
        torch.testing.assert_close(by_draw.mean[s], alone.mean[s])
        torch.testing.assert_close(by_draw.variance[s], alone.variance[s])
    places = torch.stack([X, X.flip(0) * 0.5 + 0.5 * X.round()])
    places[..., 2] = X[..., 2]
    batched = model.condition_on_observations(places, Y[:2])
    assert batched.batch_shape == (2, DRAWS)
    for i in range(2):
        alone = model.condition_on_observations(places[i], Y[i]).posterior(at)
        torch.testing.assert_close(batched.posterior(at).mean[i], alone.mean)
        torch.testing.assert_close(batched.posterior(at).variance[i], alone.variance)


def test_known_noise_of_new_rows(own):
    X = tensor(own, grid(3))
    model = as_botorch_model(own, "b", draws=DRAWS)
    noise = torch.full((3, 1), 0.04, dtype=torch.float64)
    more = (
        model.posterior(X, observation_noise=noise).distribution.covariance_matrix
        - model.posterior(X).distribution.covariance_matrix
    )
    torch.testing.assert_close(more, 0.04 * torch.eye(3).double().expand_as(more), rtol=1e-6, atol=1e-8)
    Y = torch.full((3, 1), 6.0, dtype=torch.float64)
    default = model.condition_on_observations(X, Y).posterior(X).variance
    own_noise = model._untold[:, 1] * own.scaling.scale[1] ** 2
    same = model.condition_on_observations(X, Y, noise=own_noise[:, None, None].expand(-1, 3, 1))
    torch.testing.assert_close(same.posterior(X).variance, default)
    assert (model.condition_on_observations(X, Y, noise=1e-8 * noise).posterior(X).variance < default).all()


def test_a_condensed_table(own):
    """With a pair at every row the inducing engine is the exact one; its posterior can be conditioned as well."""
    exact = of_draws(own)
    problem = exact._problem
    inducing = condense([lambda: problem], problem.model, problem.layout, exact._mixed, problem.points)
    large = dataclasses.replace(exact, inducing=inducing, condensed=len(exact.data))
    X, Y = tensor(own, grid(4)), torch.full((4, 1), 6.0, dtype=torch.float64)
    for draws in (DRAWS, 3):
        found, expected = (as_botorch_model(each, "c", draws=draws) for each in (large, exact))
        for before, after in (
            (found, expected),
            (found.condition_on_observations(X, Y), expected.condition_on_observations(X, Y)),
        ):
            torch.testing.assert_close(before.posterior(X).mean, after.posterior(X).mean, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(before.posterior(X).variance, after.posterior(X).variance, rtol=1e-3, atol=1e-4)


def test_order_of_tasks_does_not_matter(own):
    model = as_botorch_model(own, draws=DRAWS)
    X = tensor(own, grid(3))
    for t, name in enumerate(own.data.names):
        alone = as_botorch_model(own, name, draws=DRAWS).posterior(X)
        X_t = torch.cat([X, torch.full((3, 1), t).double()], -1)
        torch.testing.assert_close(model.posterior(X_t).mean, alone.mean)
        torch.testing.assert_close(model.posterior(X_t).variance, alone.variance)
    rows = torch.cat([X, torch.tensor([[2.0], [0.0], [1.0]]).double()], -1)
    order = torch.tensor([1, 2, 0])
    torch.testing.assert_close(model.posterior(rows[order]).mean, model.posterior(rows).mean[:, order])
    Y = torch.tensor([[5.0], [6.0], [7.0]], dtype=torch.float64)
    one, other = (model.condition_on_observations(rows[o], Y[o]).posterior(X_t) for o in (slice(None), order))
    torch.testing.assert_close(one.mean, other.mean)


def test_draws_of_a_chain_are_spread(own):
    chain = dataclasses.replace(own, record=dataclasses.replace(own.record, method="nuts"))
    kept = as_botorch_model(chain, "a", draws=3).source.theta["noise"]
    last = own.components - 1
    torch.testing.assert_close(kept, own.theta["noise"][[0, round(last / 2), last]])
    assert as_botorch_model(own, "a", draws=1000).batch_shape == (own.components,)


def test_train_inputs(own):
    (X,) = as_botorch_model(own, "b").train_inputs
    np.testing.assert_array_equal(X, own.data.x[own.data.task_index == 1])
    (X,) = as_botorch_model(own).train_inputs
    np.testing.assert_array_equal(X[:, -1], own.data.task_index)


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_data", [False, True])
@pytest.mark.parametrize("mixture", [False, True])
def test_gradients(toy, at_data, mixture):
    model = as_botorch_model(toy, "dear", draws=3, mixture=mixture)
    X = torch.tensor([[[0.2, 0.7], [0.5, 0.4]], [[0.9, 0.1], [0.3, 0.35]]], dtype=torch.float64)
    if at_data:  # a row of each task
        X[:, 0] = torch.from_numpy(toy.data.x[[0, 25]])
    base = torch.randn(4, *model.posterior(X).mean.shape[:-1], generator=torch.Generator().manual_seed(0)).double()

    def values(X: Tensor) -> tuple[Tensor, ...]:
        law = model.posterior(X, observation_noise=True)
        sample = law.rsample_from_base_samples(torch.Size([4]), base)
        return law.mean / 1e5, law.variance / 1e10, sample / 1e5

    assert torch.autograd.gradcheck(values, X.requires_grad_(), eps=1e-5, atol=1e-5, rtol=1e-3, fast_mode=False)


def test_gradients_through_fantasies(toy):
    model = as_botorch_model(toy, "dear", draws=3)
    base = torch.randn(2, 1, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    later = torch.tensor([[[[0.4, 0.2]]], [[[0.8, 0.5]]]], dtype=torch.float64)

    def values(X: Tensor, later: Tensor) -> Tensor:
        Y = model.posterior(X, observation_noise=True).rsample_from_base_samples(torch.Size([2]), base)
        law = model.condition_on_observations(X, Y).posterior(later)
        return torch.cat([law.mean / 1e5, law.variance / 1e10])

    X = torch.tensor([[[0.2, 0.7], [0.5, 0.4]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        values, (X.requires_grad_(), later.requires_grad_()), eps=1e-5, atol=1e-5, rtol=1e-3
    )


def test_gradients_at_repeated_points_are_finite(toy):
    model = as_botorch_model(toy, "dear", draws=3)
    X = torch.tensor([[0.4, 0.4]] * 3, dtype=torch.float64).requires_grad_()
    model.posterior(X).rsample(torch.Size([5])).sum().backward()
    assert X.grad.isfinite().all()


def test_gradients_after_inference_mode(toy):
    with torch.inference_mode():
        model = as_botorch_model(toy, "dear", draws=3)
    X = torch.tensor([[0.4, 0.4]], dtype=torch.float64).requires_grad_()
    model.posterior(X).mean.sum().backward()
    assert X.grad.isfinite().all()


# -- under BoTorch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [False, True])
def test_fantasies(own, mixture):
    model = as_botorch_model(own, "c", draws=DRAWS, mixture=mixture)
    end = (DRAWS,) if mixture else ()
    X = torch.stack([tensor(own, grid(2, seed=s)) for s in range(3)])
    fantasy = model.fantasize(X, sampler(4))
    assert fantasy.batch_shape == (4, 3, *end)
    assert fantasy.posterior(X).mean.shape == (4, 3, *end, 2, 1)
    assert fantasy.posterior(X[0]).mean.shape == (4, 3, *end, 2, 1)
    again = fantasy.fantasize(X[:, :1], sampler(2))
    assert again.posterior(X).mean.shape == (2, 4, 3, *end, 2, 1)
    noise = torch.full((1, 1), 1e-6, dtype=torch.float64)
    sharp = model.fantasize(X, sampler(4), observation_noise=noise).posterior(X)
    Y = sampler(4)(model.posterior(X, observation_noise=noise))
    torch.testing.assert_close(sharp.mean, Y, rtol=1e-2, atol=1e-2)  # the functions go through what was seen
    # Law of total expectation: over many fantasies the mean is as before.
    many, law = model.fantasize(X[:1], sampler(512)).posterior(X[:1, :1]).mean.mean(0), model.posterior(X[:1, :1])
    # Merged draws are told the same values, each as its own noise has it: what they make of them differs a little.
    assert ((many - law.mean).abs() < (0.01 if mixture else 0.15) * law.variance.sqrt()).all()


def test_analytic_and_sampled_improvement_agree(toy):
    X = torch.rand(100, 1, 2, generator=torch.Generator().manual_seed(0)).double()
    for mixture in (False, True):
        model = as_botorch_model(toy, "dear", mixture=mixture)
        assert is_fully_bayesian(model) == is_ensemble(model) == mixture
        analytic = LogExpectedImprovement(model, best_f=8e4)(X)
        sampled = qLogExpectedImprovement(model, best_f=8e4, sampler=sampler(512))(X)
        high = analytic > analytic.max() - 3
        assert high.sum() > 3
        torch.testing.assert_close(sampled[high], analytic[high], rtol=0, atol=0.1)


@pytest.mark.parametrize("mixture", [False, True])
def test_optimize_acqf_finds_the_maximum(toy, mixture):
    torch.manual_seed(0)
    model = as_botorch_model(toy, "dear", draws=4, mixture=mixture)
    best = float(toy.data.values[toy.data.task_index == 1].max())
    functions = [
        (LogExpectedImprovement(model, best_f=best), 1),
        (qLogExpectedImprovement(model, best_f=best, sampler=sampler(64)), 2),
        (qLogNoisyExpectedImprovement(model, X_baseline=model.train_inputs[0], sampler=sampler(64)), 2),
    ]
    for acquisition, q in functions:
        found, value = optimize_acqf(acquisition, BOUNDS, q=q, **SEARCH)
        assert value.isfinite()
        assert ((found - torch.tensor([0.6, 0.3])).norm(dim=-1) < 0.25).any(), type(acquisition).__name__
    greedy, _ = optimize_acqf(functions[2][0], BOUNDS, q=2, sequential=True, **SEARCH)
    assert greedy.shape == (2, 2)
    # A measurement may be worth more elsewhere, but never less than nothing.
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Optimization failed in"
        )  # a line search stuck at the optimum: it starts anew
        _, now = optimize_acqf(PosteriorMean(model), BOUNDS, q=1, **SEARCH)
    found, value = optimize_acqf(qKnowledgeGradient(model, num_fantasies=4), BOUNDS, q=1, **WIDER)
    assert found.shape == (1, 2)
    assert value > now


def test_the_sign_is_the_users(toy):
    X = torch.tensor([[[0.6, 0.3]], [[0.0, 1.0]]], dtype=torch.float64)
    model = as_botorch_model(toy, "dear")
    up = PosteriorMean(model)(X)
    down = PosteriorMean(model, posterior_transform=ScalarizedPosteriorTransform(torch.tensor([-1.0]).double()))(X)
    torch.testing.assert_close(up, -down)
    assert up[0] > up[1]
    turned = model.posterior(X, posterior_transform=ScalarizedPosteriorTransform(torch.tensor([-1.0]).double()))
    assert isinstance(turned, GaussianMixturePosterior)
    least, _ = optimize_acqf(
        LogExpectedImprovement(
            model, best_f=0.0, posterior_transform=ScalarizedPosteriorTransform(torch.tensor([-1.0]).double())
        ),
        BOUNDS, q=1, **SEARCH,
    )  # fmt: skip
    assert (least - torch.tensor([0.6, 0.3])).norm() > 0.5


def test_knowledge_gradient_of_a_mixture_is_the_mean_over_its_draws(toy):
    """Each t-batch and each draw by itself, although BoTorch averages an ensemble's fantasies over t-batches too."""
    X = torch.rand(3, 1 + 4, 2, generator=torch.Generator().manual_seed(0)).double()
    gradients = qKnowledgeGradient(as_botorch_model(toy, "dear", draws=3), num_fantasies=None, sampler=sampler(4))(X)
    assert gradients.shape == (3,)
    alone = []
    for s in range(3):
        one = dataclasses.replace(toy, theta={name: v[s : s + 1] for name, v in toy.theta.items()}, components=1)
        for mixture in (False, True):
            model = as_botorch_model(one, "dear", mixture=mixture)
            alone.append(qKnowledgeGradient(model, num_fantasies=None, sampler=sampler(4))(X))
    torch.testing.assert_close(gradients, torch.stack(alone[::2]).mean(0))
    torch.testing.assert_close(gradients, torch.stack(alone[1::2]).mean(0))


@pytest.mark.parametrize("mixture", [False, True])
def test_knowledge_gradient_has_the_gradient_of_its_values(toy, mixture):
    """Line searches that get stuck are then not the model's doing."""
    model = as_botorch_model(toy, "dear", mixture=mixture)
    gradients = qKnowledgeGradient(model, num_fantasies=None, sampler=sampler(4))
    X = torch.rand(1, 1 + 4, 2, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    (slope,) = torch.autograd.grad(gradients(X).sum(), X)
    for i in range(5):
        for j in range(2):
            step = torch.zeros_like(X)
            step[0, i, j] = 1e-5
            with torch.no_grad():
                rise = (gradients(X + step) - gradients(X - step)).item() / 2e-5
            assert slope[0, i, j].item() == pytest.approx(rise, rel=1e-5, abs=1e-5 * slope.abs().max().item())


def test_discrete_and_mixed_search(own):
    torch.manual_seed(0)
    model = as_botorch_model(own, "c", draws=4)
    values = own.data.values[own.data.task_index == 2]
    acquisition = qLogExpectedImprovement(model, best_f=float(values.max()), sampler=sampler(64))
    candidates = tensor(own, grid(30))
    chosen, _ = optimize_acqf_discrete(acquisition, q=2, choices=candidates)
    assert all((row == candidates).all(-1).any() for row in chosen)
    best = acquisition(candidates.unsqueeze(-2)).argmax()
    torch.testing.assert_close(chosen[0], candidates[best])
    bounds = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    mixed, value = optimize_acqf_mixed(acquisition, bounds, q=1, fixed_features_list=[{2: 0}, {2: 1}], **SEARCH)
    assert mixed[0, 2] in (0.0, 1.0)
    assert value > acquisition(candidates.unsqueeze(-2)).max() - 1e-3


@pytest.mark.filterwarnings("ignore:Optimization failed")  # a line search stuck at an optimum: BoTorch starts anew
def test_branin_by_a_multi_fidelity_knowledge_gradient():
    """BoTorch's own loop over fidelities: costs, projection to the target, and the cheap one where it tells as much."""
    posterior = fidelities(AugmentedBranin(negate=True), {"low": 0.7, "high": 1.0}, [24, 10])
    model = as_botorch_model(posterior, mixture=False, draws=16)
    bounds = torch.tensor([[-5.0, 0.0, 0.0], [10.0, 15.0, 1.0]], dtype=torch.float64)
    torch.manual_seed(0)
    mean = FixedFeatureAcquisitionFunction(PosteriorMean(model), d=3, columns=[2], values=[1.0])
    _, current = optimize_acqf(mean, bounds[:, :2], q=1, num_restarts=2, raw_samples=64)
    gradient = qMultiFidelityKnowledgeGradient(
        model, num_fantasies=4, current_value=current,
        project=lambda X: project_to_target_fidelity(X, target_fidelities={2: 1.0}, d=3),
        cost_aware_utility=InverseCostWeightedUtility(AffineFidelityCostModel({2: 9.0}, fixed_cost=1.0)),
    )  # fmt: skip
    found, value = optimize_acqf_mixed(gradient, bounds, q=1, fixed_features_list=[{2: 0.0}, {2: 1.0}], **WIDER)
    assert found.shape == (1, 3)
    assert value > 0
    assert found[0, 2] == 0.0  # a tenth of the cost
    assert ((found >= bounds[0]) & (found <= bounds[1])).all()
    y = AugmentedBranin(negate=True)(torch.cat([found[:, :2], torch.tensor([[0.7]])], -1))
    after = model.condition_on_observations(found, y.unsqueeze(-1))
    target = torch.cat([found[:, :2], torch.ones(1, 1).double()], -1)
    assert after.posterior(target).variance < model.posterior(target).variance


def test_hartmann_by_noisy_improvement():
    posterior = fidelities(AugmentedHartmann(negate=True), {"low": 0.0, "high": 1.0}, [40, 12])
    model = as_botorch_model(posterior, "high", draws=4)
    torch.manual_seed(0)
    improvement = qLogNoisyExpectedImprovement(model, X_baseline=model.train_inputs[0], sampler=sampler(64))
    found, value = optimize_acqf(
        improvement, torch.tensor([[0.0] * 6, [1.0] * 6]).double(), q=2, num_restarts=2, raw_samples=32,
        options={"maxiter": 20},
    )  # fmt: skip
    assert value.isfinite()
    assert model.posterior(found).mixture_mean.max() > np.median(posterior.data.values)
    # The same with the fidelity as a column, at the target.
    both = as_botorch_model(posterior, draws=4)
    at = torch.cat([found, torch.ones(2, 1).double()], -1)
    torch.testing.assert_close(both.posterior(at).mean, model.posterior(found).mean)


def test_entropy_search_of_one_normal(toy):
    torch.manual_seed(0)
    model = as_botorch_model(toy, "dear", draws=4, mixture=False)
    search = qMaxValueEntropy(model, candidate_set=torch.rand(100, 2).double())
    assert search(torch.tensor([[[0.6, 0.3]]], dtype=torch.float64)).isfinite()


# -- scales and refusals ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds() -> btl.Posterior:
    """Tasks of five likelihoods."""
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 20)
    frame = pd.DataFrame(
        {
            "x": x,
            "rate": np.exp(2 * x + 0.05 * rng.standard_normal(20)),
            "gap": np.maximum(2 * x - 0.5, 0),
            "heavy": x + 0.05 * rng.standard_normal(20),
            "count": rng.poisson(np.exp(2 * x)),
            "phase": rng.choice(["p", "q", "r"], 20),
        }
    )
    likelihoods = {
        "rate": btl.Gaussian(warp=btl.Log()), "gap": btl.Censored(lower=0.0), "heavy": btl.StudentT(),
        "count": btl.Poisson(), "phase": btl.Categorical(),
    }  # fmt: skip
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=list(likelihoods), likelihoods=likelihoods)
    return btl.fit(btl.SingleTask(), data, method="map")


@pytest.mark.filterwarnings("ignore:.*less than one in a million")
def test_functions_on_other_scales_are_asked_for_by_name(kinds):
    X = torch.tensor([[0.2], [0.7]], dtype=torch.float64)
    frame = {"x": [0.2, 0.7]}
    for task in ("rate", "count"):
        with pytest.raises(ValueError, match="Give latent=True"):
            as_botorch_model(kinds, task)
        mean = as_botorch_model(kinds, task, latent=True).posterior(X).mixture_mean[:, 0]
        predicted = kinds.predict(frame, task=task, noise=False, quantiles=[0.5])["quantile"][0]
        np.testing.assert_allclose(mean.exp(), predicted, rtol=1e-2)  # a map has one component: the median is exp(mean)
    for task, name in (("gap", "latent_mean"), ("heavy", "mean")):
        mean = as_botorch_model(kinds, task).posterior(X).mixture_mean[:, 0]
        np.testing.assert_allclose(mean, kinds.predict(frame, task=task, noise=False)[name], rtol=1e-6)
    rate = as_botorch_model(kinds, "rate", latent=True)
    Y = torch.full((2, 1), 1.0, dtype=torch.float64)
    data = btl.TaskData.from_wide(
        pd.DataFrame({"x": [0.2, 0.7], "rate": np.exp([1.0, 1.0])}), inputs=["x"], tasks=["rate"],
        likelihoods={"rate": btl.Gaussian(warp=btl.Log())},
    )  # fmt: skip
    expected = kinds.condition(data).predict(frame, task="rate", noise=False, quantiles=[0.5])["quantile"][0]
    found = rate.condition_on_observations(X, Y).posterior(X).mixture_mean[:, 0].exp()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_several_outputs_are_joint(own):
    """As all tasks at once are; BoTorch's lists of models take them for independent."""
    rows = tensor(own, grid(3))
    for mixture in (True, False):
        both = as_botorch_model(own, ["b", "a"], draws=DRAWS, mixture=mixture)
        every = as_botorch_model(own, draws=DRAWS, mixture=mixture)
        places = torch.tensor([[float(own.data.index_of(task))] for task in ("b", "a")] * 3, dtype=torch.float64)
        law, whole = both.posterior(rows), every.posterior(torch.cat([rows.repeat_interleave(2, 0), places], -1))
        torch.testing.assert_close(law.distribution.mean.flatten(-2), whole.distribution.mean)
        torch.testing.assert_close(
            law.distribution.covariance_matrix, whole.distribution.covariance_matrix, rtol=1e-6, atol=1e-8
        )
        assert law.rsample(torch.Size([4])).shape[-2:] == (3, 2)
        one = both.posterior(rows, output_indices=[1]).distribution.mean
        torch.testing.assert_close(
            one, as_botorch_model(own, "a", draws=DRAWS, mixture=mixture).posterior(rows).distribution.mean
        )
        torch.testing.assert_close(both.subset_output([1, 0]).posterior(rows).mean, law.mean.flip(-1))
        Y = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        after = both.condition_on_observations(rows[:1], Y).posterior(rows).distribution.mean
        stepwise = every.condition_on_observations(torch.cat([rows[:1].repeat(2, 1), places[:2]], -1), Y.mT).posterior(
            torch.cat([rows.repeat_interleave(2, 0), places], -1)
        )
        torch.testing.assert_close(after.flatten(-2), stepwise.distribution.mean, rtol=1e-6, atol=1e-8)
    assert both.num_outputs == 2
    assert len(both.train_inputs[0]) == len(both.train_inputs[0].unique(dim=0))
    with pytest.raises(ValueError, match="Y must hold doubles"):
        both.condition_on_observations(rows, rows[:, :1])


def test_several_objectives_under_botorch(own):
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement

    model = as_botorch_model(own, ["a", "b"], draws=2)
    baseline = model.train_inputs[0][:2]
    gain = qLogNoisyExpectedHypervolumeImprovement(
        model, ref_point=[0.0, 0.0], X_baseline=baseline, sampler=sampler(8), prune_baseline=False
    )
    values = gain(tensor(own, grid(4)).unsqueeze(-2))
    assert values.shape == (4,)
    assert values.isfinite().all()
    fantasy = model.fantasize(tensor(own, grid(2)).unsqueeze(-2), sampler(3))
    assert fantasy.posterior(tensor(own, grid(2)).unsqueeze(-2)).mean.shape[-2:] == (1, 2)


def test_scales_that_differ_among_draws_are_refused():
    frame = pd.DataFrame({"x": np.linspace(0, 1, 12), "y": np.exp(np.linspace(0, 3, 12))})
    for warp, fixed in ((btl.YeoJohnson(), False), (btl.Log(offset=None), False), (btl.YeoJohnson(power=0.5), True)):
        law = {"y": btl.Gaussian(warp)}
        one = btl.fit(
            btl.SingleTask(), btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"], likelihoods=law), method="map"
        )
        if fixed:
            assert as_botorch_model(one, "y", latent=True).num_outputs == 1
            continue
        with pytest.raises(ValueError, match="another one in each draw"):
            as_botorch_model(one, "y", latent=True)


def test_what_is_refused(kinds, own):
    X = torch.tensor([[0.2]], dtype=torch.float64)
    with pytest.raises(ValueError, match="several latent functions"):
        as_botorch_model(kinds, "phase", latent=True)
    with pytest.raises(btl.DataError, match="nothing"):
        as_botorch_model(kinds, "nothing")
    with pytest.raises(ValueError, match="at least 1"):
        as_botorch_model(kinds, "gap", draws=0)
    every = as_botorch_model(kinds)
    assert every.posterior(torch.tensor([[0.2, 1.0]]).double()).mean.isfinite().all()
    with pytest.raises(ValueError, match="Give latent=True"):
        every.posterior(torch.tensor([[0.2, 0.0]]).double())
    with pytest.raises(ValueError, match="from 0 to 4"):
        every.posterior(torch.tensor([[0.2, 0.5]]).double())
    heavy = as_botorch_model(kinds, "heavy")
    with pytest.raises(UnsupportedError, match="not normal"):
        heavy.posterior(X, observation_noise=True)
    with pytest.raises(UnsupportedError, match="not normal"):
        heavy.condition_on_observations(X, X)
    assert heavy.condition_on_observations(X, X, noise=0.01 + 0 * X).posterior(X).mean.isfinite().all()
    for wrong in (X.float(), torch.zeros(1, 3).double(), X[0], X[:0]):
        with pytest.raises(ValueError, match="X must hold doubles"):
            heavy.posterior(wrong)
    with pytest.raises(ValueError, match="Y must hold doubles"):
        heavy.condition_on_observations(X, torch.zeros(2, 1).double())
    with pytest.raises(UnsupportedError, match="has 1 output, from 0"):
        heavy.subset_output([1])
    with pytest.raises(UnsupportedError, match="has 1 output, from 0"):
        heavy.posterior(X, output_indices=[0, 1])
    assert heavy.subset_output([0]) is heavy
    assert heavy.num_outputs == 1
    ours = as_botorch_model(own, "a", draws=DRAWS)
    rows = tensor(own, grid(1))
    with pytest.raises(ValueError, match="codes of the input 'phase'"):
        ours.posterior(rows + 0.5)
    with pytest.raises(ValueError, match=f"{DRAWS} draws"):
        ours.condition_on_observations(rows, torch.zeros(2, 1, 1).double())
    with pytest.raises(UnsupportedError, match="mixture=False"):
        as_botorch_model(own, draws=DRAWS).fantasize(torch.cat([rows, torch.zeros(1, 1).double()], -1), sampler(2))


def test_without_botorch(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.split(".")[0] == "botorch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "bayestl.botorch")
    with pytest.raises(ImportError, match=r"pip install 'bayestl\[botorch\]'"):
        importlib.import_module("bayestl.botorch")


def test_what_a_material_of_a_category_has_of_its_own():
    """Levels that were off by a rounding of single precision were others than those measured."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(20), "phase": rng.choice(["fcc", "bcc"], 20)})
    frame["a"] = np.sin(4 * frame["x"]) + 0.4 * rng.normal(size=20)
    frame["b"] = frame["a"] + 0.05 * rng.normal(size=20)
    data = btl.TaskData.from_wide(frame, inputs=["x", "phase"], tasks=["a", "b"])
    posterior = btl.fit(btl.MultiTask(kernel=btl.Nugget()), data, method="map")
    at = as_botorch_model(posterior, "a").posterior(tensor(posterior, frame).unsqueeze(1))
    said = posterior.predict(frame, "a", noise=False)
    np.testing.assert_allclose(at.mixture_mean.detach().numpy().ravel(), said["mean"].values.ravel(), atol=1e-9)
    np.testing.assert_allclose(
        at.mixture_variance.detach().sqrt().numpy().ravel(), said["std"].values.ravel(), atol=1e-7
    )
