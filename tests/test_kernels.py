import copy
import dataclasses

import gpytorch
import pytest
import torch

import bayestl as btl
from bayestl.kernels import RBF, GPyTorchKernel, Matern52, matern52, rbf
from bayestl.models.problem import Problem
from bayestl.scaling import Layout

from .conftest import draw_theta, table

LAYOUT = Layout(
    tasks=("a",),
    outputs=("a",),
    owner=(0,),
    first=(0, 1),
    noisy=(0,),
    inputs=("p", "q", "r"),
    groups=(0, 1, 2),
    counts=(5,),
)
X = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Z = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def prior(kernel, draws=3, layout=LAYOUT):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        each = [kernel.prior("k", layout) for _ in range(draws)]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        (Matern52(), gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=3)),
        (RBF(), gpytorch.kernels.RBFKernel(ard_num_dims=3)),
    ],
)
def test_kernels_agree_with_gpytorch(kernel, reference):
    theta = prior(kernel)
    ours = kernel(theta, "k", X, Z, LAYOUT)
    for s in range(3):
        theirs = copy.deepcopy(reference).double()
        theirs.lengthscale = theta["k.length_scale"][s]
        torch.testing.assert_close(ours[s], theirs(X, Z).to_dense().detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", [matern52, rbf])
def test_gradients_are_right_and_finite_at_zero_distance(function):
    a = torch.cat([X, X[:2]]).requires_grad_()  # repeated points
    assert torch.autograd.gradcheck(function, (X.clone().requires_grad_(), Z.clone().requires_grad_()))
    (gradient,) = torch.autograd.grad(function(a, a).sum(), a)
    assert gradient.isfinite().all()


def test_gpytorch_kernel_is_the_same_function_batched():
    wrapped = GPyTorchKernel(gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=3))
    theta = prior(wrapped)
    assert theta["k.lengthscale"].shape == (3, 1, 3)
    same = {"k.length_scale": theta["k.lengthscale"].squeeze(1)}
    torch.testing.assert_close(
        wrapped(theta, "k", X, Z, LAYOUT), Matern52()(same, "k", X, Z, LAYOUT), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(wrapped.diagonal(theta, "k", X, LAYOUT), torch.ones(3, 6, dtype=torch.float64))


def test_gpytorch_hyperparameters_join_theta_with_their_own_priors():
    kernel = gpytorch.kernels.ScaleKernel(
        gpytorch.kernels.RBFKernel(lengthscale_prior=gpytorch.priors.GammaPrior(3.0, 6.0)),
        outputscale_constraint=gpytorch.constraints.Interval(0.1, 0.3),
    )
    before = {name: value.clone() for name, value in kernel.state_dict().items()}
    theta = prior(GPyTorchKernel(kernel), draws=4000)
    lengths = theta["k.base_kernel.lengthscale"].flatten()
    assert lengths.mean().item() == pytest.approx(0.5, rel=0.05)  # Gamma(3, 6)
    assert theta["k.outputscale"].min() > 0.1
    assert theta["k.outputscale"].max() < 0.3
    for name, value in kernel.state_dict().items():
        assert torch.equal(value, before[name])


def test_sums_and_products_on_named_inputs():
    kernel = Matern52(["p"]) * Matern52(["r"]) + Matern52(["q"])
    theta = prior(kernel)
    weights = theta["k.logit"].softmax(-1)

    def one(name, column):
        scale = theta[f"{name}.length_scale"][..., None, :]
        return matern52(X[:, [column]] / scale, Z[:, [column]] / scale)

    expected = weights[:, 0, None, None] * one("k.0.0", 0) * one("k.0.1", 2) + weights[:, 1, None, None] * one("k.1", 1)
    torch.testing.assert_close(kernel(theta, "k", X, Z, LAYOUT), expected)
    diagonal = kernel(theta, "k", X, X, LAYOUT).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(kernel.diagonal(theta, "k", X, LAYOUT), diagonal)


def test_beyond_fifteen_inputs_one_length_scale():
    names = tuple(f"x{j}" for j in range(40))
    layout = dataclasses.replace(LAYOUT, inputs=names, groups=tuple(range(40)), counts=(5,))
    assert prior(Matern52(), layout=layout)["k.length_scale"].shape == (3, 1)


def test_levels_of_a_category_share_a_length_scale():
    problem = Problem.of(btl.MultiTask(), table())
    assert problem.points.x.shape[1] == 4  # two numbers and two levels
    theta = draw_theta(problem, 2)
    assert theta["shared.length_scale"].shape == (2, 3)


def test_unknown_input_is_named():
    with pytest.raises(btl.DataError, match="kernel names inputs 'z'"):
        btl.fit(btl.MultiTask(kernel=Matern52(["z"])), table())


class Tanimoto(gpytorch.kernels.Kernel):
    """A kernel of counts: no hyperparameters, meaningless on scaled inputs."""

    def forward(self, x1, x2, diag=False, **params):
        if diag:
            return torch.ones(x1.shape[:-1], dtype=x1.dtype)
        dot = x1 @ x2.mT
        return dot / (x1.square().sum(-1)[..., :, None] + x2.square().sum(-1)[..., None, :] - dot)


def test_a_users_kernel_sees_raw_counts_and_fits():
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    bits = rng.integers(0, 4, (24, 6)) + 1
    names = [f"b{j}" for j in range(6)]
    frame = pd.DataFrame(bits, columns=names).assign(y=bits[:, 0] + 0.1 * rng.standard_normal(24), task=["u", "v"] * 12)
    data = btl.TaskData.from_long(frame, inputs=names, task="task", value="y")
    model = btl.MultiTask(kernel=GPyTorchKernel(Tanimoto(), inputs=names, scaled=False))
    problem = Problem.of(model, data)
    np.testing.assert_array_equal(problem.points.x.numpy(), np.concatenate([bits[::2], bits[1::2]]))
    posterior = btl.fit(model, data)
    assert np.isfinite(posterior.predict(frame, task="u")["mean"]).all()


@pytest.mark.parametrize(
    "constraint",
    [
        gpytorch.constraints.Interval(0.1, 0.4),
        gpytorch.constraints.GreaterThan(0.6),
        gpytorch.constraints.LessThan(3.0),
    ],
)
def test_constraints_of_gpytorch_are_kept(constraint):
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(), outputscale_constraint=constraint)
    values = prior(GPyTorchKernel(kernel), draws=500)["k.outputscale"]
    assert (values >= constraint.lower_bound).all()
    assert (values <= constraint.upper_bound).all()
    narrow = gpytorch.kernels.RBFKernel(lengthscale_constraint=gpytorch.constraints.Interval(0.1, 0.4))
    assert prior(GPyTorchKernel(narrow), draws=500)["k.lengthscale"].max() <= 0.4
    wide = gpytorch.kernels.RBFKernel(lengthscale_prior=gpytorch.priors.NormalPrior(1.0, 1.0))
    with pytest.raises(ValueError, match="Use one on the positive numbers"):
        prior(GPyTorchKernel(wide))


def test_differences_survive_a_large_offset():
    near = matern52(X, Z)
    torch.testing.assert_close(matern52(X + 1e6, Z + 1e6), near, atol=1e-8, rtol=0)


def test_gpytorch_kernels_join_sums():
    kernel = Matern52(["p"]) + gpytorch.kernels.RBFKernel()
    assert kernel(prior(kernel), "k", X, Z, LAYOUT).shape == (3, 6, 4)
