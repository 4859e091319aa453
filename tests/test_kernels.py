import copy
import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor

import gpytorch
import numpy as np
import pandas as pd
import pytest
import torch

import bayestl as btl
from bayestl.columns import Input
from bayestl.distance import MATERN52, Memory, matern52, mean_absolute, of_distance, rbf, same
from bayestl.kernels import RBF, GPyTorchKernel, Matern52
from bayestl.models.problem import Problem
from bayestl.priors import length_scales
from bayestl.scaling import PLAIN, Layout, families, singled

from .conftest import draw_theta, table

LAYOUT = Layout(
    tasks=("a",),
    outputs=("a",),
    owner=(0,),
    first=(0, 1),
    noisy=(0,),
    inputs=("p", "q", "r"),
    groups=(0, 1, 2),
    families=(None, None, None),
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


def layout_of(names, families):
    return dataclasses.replace(
        LAYOUT, inputs=tuple(names), groups=tuple(range(len(names))), families=tuple(families), counts=(5,)
    )


def test_names_tell_the_families_of_many_descriptors():
    names = ["mean radius", "range_radius", "MagpieData mean Number", "orbital: HOMO", "meanness", "T"]
    more = [f"mean p{j}" for j in range(12)]
    assert families([Input(n) for n in names]) == (None,) * 6  # few: each has its own length scale
    found = families([Input(n) for n in names + more])
    assert found == ("mean", "range", "MagpieData mean", "orbital", None, None) + ("mean",) * 12
    assert families([Input(f"x{j}") for j in range(16)]) == (PLAIN,) * 16
    categories = [Input("base", ("a", "b")), *(Input(f"x{j}") for j in range(16))]
    assert families(categories) == (None,) + (PLAIN,) * 16
    called = families([Input(f"inputs: x{j}") for j in range(16)])  # a name that somebody may give
    assert called == ("inputs",) * 16
    assert singled(called) is None


@pytest.mark.parametrize("kind", [Matern52, RBF])
def test_families_enter_by_their_mean_absolute_difference(kind):
    layout = layout_of(["T", *"abcde"], [None, "one", "one", "two", "two", "two"])
    a, b = (torch.rand(n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (7, 4))
    kernel = kind()
    theta = prior(kernel, draws=3, layout=layout)
    assert theta["k.length_scale"].shape == (3, 1)
    assert theta["k.family_scale"].shape == (3, 2)
    own, family = theta["k.length_scale"][..., None], theta["k.family_scale"][..., None, None]
    apart = (a[:, None] - b[None]).abs()
    square = (
        (apart[..., 0] / own).square()
        + apart[..., 1:3].mean(-1) / family[:, 0].square()
        + apart[..., 3:].mean(-1) / family[:, 1].square()
    )
    r = (5 * square).sqrt()
    expected = (1 + r + r.square() / 3) * (-r).exp() if kind is Matern52 else (-square / 2).exp()
    torch.testing.assert_close(kernel(theta, "k", a, b, layout), expected)
    again = kernel(theta, "k", a, b, layout)  # from memory
    torch.testing.assert_close(again, expected)
    whole = kernel(theta, "k", a, a, layout)
    assert torch.linalg.eigvalsh(whole).min() > 0
    torch.testing.assert_close(whole.diagonal(dim1=-2, dim2=-1), kernel.diagonal(theta, "k", a, layout))


def test_plain_inputs_share_a_distance_and_have_length_scales_of_their_own():
    names = [f"x{j}" for j in range(20)]
    layout = layout_of(names, families([Input(name) for name in names]))
    a, b = (torch.rand(n, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (7, 4))
    kernel = Matern52()
    theta = prior(kernel, draws=3, layout=layout)
    apart = (a[:, None] - b[None]).abs()
    own, family = theta["k.length_scale"][:, None, None], theta["k.family_scale"][..., None]
    square = (apart / own).square().sum(-1) + apart.mean(-1) / family.square()
    r = (5 * square).sqrt()
    torch.testing.assert_close(kernel(theta, "k", a, b, layout), (1 + r + r.square() / 3) * (-r).exp())
    assert kernel.labels("k", layout) == {
        "k.length_scale": ("input", names),
        "k.family_scale": ("family", [PLAIN]),
    }
    many = prior(kernel, draws=4000, layout=layout)
    assert float(many["k.length_scale"].median()) == pytest.approx(3 * (20 / 15) ** 0.5, rel=0.05)
    assert float(many["k.family_scale"].median()) == pytest.approx(np.exp(0.3) * 12**-0.25, rel=0.05)
    many = [Input(f"x{j}") for j in range(41)]
    layout = layout_of([own.name for own in many], families(many))
    assert list(prior(kernel, draws=3, layout=layout)) == ["k.family_scale"]


@pytest.mark.parametrize(("count", "ranged"), [(15, True), (20, True), (40, True), (41, False)])
def test_inputs_with_length_scales_of_their_own_are_measured_by_their_range(count, ranged):
    x = np.random.default_rng(0).random((30, count)) ** 4
    frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(count)]).assign(y=np.arange(30.0))
    data = btl.TaskData.from_wide(frame, inputs=list(frame.columns[:-1]), tasks=["y"])
    width = Problem.of(btl.SingleTask(), data).scaling.width
    np.testing.assert_allclose(width, np.ptp(x, axis=0) if ranged else x.std(0))


def test_of_twenty_plain_inputs_those_that_matter_are_found():
    rng = np.random.default_rng(0)
    names = [f"x{j}" for j in range(20)]
    frame = pd.DataFrame(rng.random((120, 20)), columns=names)
    frame["y"] = np.sin(6 * frame["x3"]) + np.cos(5 * frame["x11"]) + 0.05 * rng.standard_normal(120)
    data = btl.TaskData.from_wide(frame.iloc[:80], inputs=names, tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0)
    scales = posterior.to_arviz().posterior["y.length_scale"].median(("chain", "draw"))
    assert set(scales.sortby(scales)["input"].to_numpy()[:2]) == {"x3", "x11"}
    test = btl.TaskData.from_wide(frame.iloc[80:], inputs=names, tasks=["y"])
    error = float((posterior.score(test)["error"] ** 2).mean() ** 0.5)
    assert error < 0.3 * frame["y"].std()  # one length scale for all leaves 0.54


def test_gradients_through_families():
    layout = layout_of(["T", *"abc"], [None, "one", "one", "two"])
    a, b = (torch.rand(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (5, 3))

    def k(own, family, x):
        return Matern52()({"k.length_scale": own, "k.family_scale": family}, "k", x, b, layout)

    own, family = torch.rand(2, 1).double() + 0.5, torch.rand(2, 2).double() + 0.5
    assert torch.autograd.gradcheck(k, (own.requires_grad_(), family.requires_grad_(), a.requires_grad_()))


def test_threads_may_share_what_is_remembered(monkeypatch):
    """Eight threads over more rows than are kept: every answer is that of its own rows."""
    monkeypatch.setattr(Memory, "LARGEST", 60)
    remember, families = Memory(mean_absolute), ((0, 1), (2,))
    rows = [torch.rand(5, 3, dtype=torch.float64) for _ in range(12)]
    expected = [mean_absolute(a, a, families) for a in rows]

    def work(i):
        return all(
            torch.equal(remember(rows[j % 12], rows[j % 12], families), expected[j % 12]) for j in range(i, i + 300)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    monkeypatch.setattr(Memory, "LARGEST", 10**6)
    monkeypatch.setattr(Memory, "MOST", 3)  # many small ones take time to go through
    assert all(work(i) for i in range(8))
    assert len(remember._kept) == 3


def test_what_is_remembered_is_of_the_same_rows():
    layout = layout_of("abc", ["one"] * 3)
    kernel, theta = Matern52(), {"k.family_scale": torch.ones(1, 1).double()}
    a = torch.rand(5, 3, dtype=torch.float64)
    before = kernel(theta, "k", a, a, layout).clone()
    a.mul_(2.0)  # in place: the same memory, other rows
    assert not torch.equal(kernel(theta, "k", a, a, layout), before)
    for n in range(20):  # freed memory is used again
        b = torch.full((5, 3), float(n), dtype=torch.float64)
        torch.testing.assert_close(kernel(theta, "k", b, b, layout), torch.ones(1, 5, 5).double())


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


def test_kernels_for_other_columns_and_priors_of_nobody_are_refused():
    for kernel in (gpytorch.kernels.RBFKernel(ard_num_dims=2), gpytorch.kernels.RBFKernel(active_dims=(0, 3))):
        with pytest.raises(ValueError, match=r"built for [24] columns, and its inputs make 3"):
            prior(GPyTorchKernel(kernel))
    with pytest.raises(ValueError, match="batch shape"):
        GPyTorchKernel(gpytorch.kernels.RBFKernel(batch_shape=torch.Size([2])))
    odd = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
    odd.base_kernel.register_prior("mine", gpytorch.priors.LogNormalPrior(0.0, 1.0), "lengthscale")
    with pytest.raises(ValueError, match=r"priors 'mine'.*'lengthscale_prior'"):
        prior(GPyTorchKernel(odd))
    with pytest.raises(ValueError, match=r"Write \['p'\]"):
        Matern52("p")


def test_a_sum_of_gpytorchs_is_added_up_without_a_factor():
    own = gpytorch.kernels
    kernel = own.ScaleKernel(own.ScaleKernel(own.RBFKernel()) + own.LinearKernel())
    ours = GPyTorchKernel(kernel)
    theta = {name: value[0] for name, value in prior(ours, draws=1).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ours(theta, "k", X, X.repeat(2, 1), LAYOUT)
    kernel = kernel.double()
    kernel.initialize(**{name.removeprefix("k."): value for name, value in theta.items()})
    torch.testing.assert_close(found, kernel(X, X.repeat(2, 1)).to_dense(), atol=1e-10, rtol=0)


def test_gpytorch_kernels_join_sums():
    kernel = Matern52(["p"]) + gpytorch.kernels.RBFKernel()
    assert kernel(prior(kernel), "k", X, Z, LAYOUT).shape == (3, 6, 4)


# -- length scales ----------------------------------------------------------------------------------------------------


def test_length_scales_may_be_long_more_easily_than_short():
    law = length_scales(2, 2)
    torch.testing.assert_close(law.base_dist.icdf(torch.full((2,), 0.5).double()), torch.ones(2).double())
    low, high = (law.base_dist.icdf(torch.full((2,), p).double()) for p in (0.0228, 0.9772))
    assert (low > 1 / 5).all()
    assert (high > 10).all()
    values = law.sample((5,))
    probability = law.base_dist.cdf(values)
    # The density is the slope of the distribution function.
    step = 1e-5 * values
    slope = (law.base_dist.cdf(values + step) - law.base_dist.cdf(values - step)) / (2 * step)
    torch.testing.assert_close(law.log_prob(values), slope.log().sum(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(law.base_dist.icdf(probability), values)


def test_a_length_scale_that_all_inputs_share_grows_with_their_number():
    medians = [length_scales(d, 1).base_dist.icdf(torch.tensor([0.5]).double()).item() for d in (4, 16)]
    assert medians[1] == pytest.approx(2 * medians[0])


# -- nuggets ----------------------------------------------------------------------------------------------------------


def test_inputs_are_equal_however_they_were_written():
    """In single precision, or with seven digits in a file: a material that is known is known."""
    x = torch.from_numpy(np.random.default_rng(0).random((20, 3)))
    for written in (x.float().double(), torch.from_numpy(x.numpy().round(7)), x.clone()):
        torch.testing.assert_close(same(x, written, [0, 1, 2]), torch.eye(20).double())
    assert same(x, x + 1e-5, [0, 1, 2]).sum() == 0


def test_a_nugget_is_a_share_of_the_variance_at_equal_inputs():
    kernel, both = btl.Nugget(btl.RBF()), torch.cat([X, Z])
    theta = prior(kernel)
    k = kernel(theta, "k", both, X, LAYOUT)
    w = theta["k.nugget"][:, None, None]
    smooth = btl.RBF()(theta, "k", both, X, LAYOUT)
    torch.testing.assert_close(k, (1 - w) * smooth + w * torch.eye(10, 6).double())
    torch.testing.assert_close(kernel.diagonal(theta, "k", X, LAYOUT), torch.ones(3, 6).double())
    assert torch.linalg.eigvalsh(kernel(theta, "k", X, X, LAYOUT)).min() > 0


def test_a_nugget_of_some_inputs_changes_with_the_others_as_the_kernel_says():
    kernel, x = btl.Nugget(btl.RBF(), inputs=["p"]), X.clone()
    x[3:, 0] = x[:3, 0]  # three materials under two conditions each
    theta = prior(kernel)
    same = (x[:, None, 0] == x[None, :, 0]).double()
    w = theta["k.nugget"][:, None, None]
    expected = btl.RBF()(theta, "k", x, x, LAYOUT) * (1 - w + w * same)
    torch.testing.assert_close(kernel(theta, "k", x, x, LAYOUT), expected)
    torch.testing.assert_close(kernel.diagonal(theta, "k", x, LAYOUT), torch.ones(3, 6).double())


def test_a_row_far_out_leaves_the_others_alone():
    """A sentinel, or a wrong unit, in one row of a table: means of squares about its mean lost all digits of the rest."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(size=14))
    frame = pd.DataFrame({"x": x, "y": np.sin(6 * x) + 0.005 * rng.standard_normal(14)})
    data = btl.TaskData.from_wide(frame, inputs=["x"], tasks=["y"])
    posterior = btl.fit(btl.SingleTask(), data, seed=0, method="map")
    alone = posterior.predict({"x": [0.2, 0.25]}, "y")
    for far in (-9999.0, 1e8, 1e20):
        beside = posterior.predict({"x": [0.2, 0.25, far, far]}, "y")
        for name in ("mean", "std"):
            np.testing.assert_allclose(beside[name][:2], alone[name], rtol=1e-9)
        assert np.isfinite(posterior.sample({"x": [0.2, far, far]}, "y", draws=3)).all()
    rows = torch.from_numpy(rng.uniform(size=(20, 2)))
    rows[3] = rows[7] = 1e8
    rows.requires_grad_()
    k = matern52(rows, rows)
    assert torch.linalg.eigvalsh(k.detach()).min() > -1e-12
    near = [i for i in range(20) if i not in (3, 7)]
    torch.testing.assert_close(k[near][:, near], matern52(rows[near], rows[near]), rtol=1e-12, atol=1e-12)
    weight = torch.from_numpy(rng.standard_normal((18, 18)))
    (through,) = torch.autograd.grad((k[near][:, near] * weight).sum(), rows)
    own = rows.detach()[near].requires_grad_()
    (alone_too,) = torch.autograd.grad((matern52(own, own) * weight).sum(), own)
    torch.testing.assert_close(through[near], alone_too, rtol=1e-6, atol=1e-9)


def test_gradients_of_distances_apart_with_one_set_of_weights():
    apart = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    none, weights = torch.zeros(4, 0).double(), torch.tensor([0.5, 2.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, d: of_distance(MATERN52, none, none, w, d), (weights, apart))
    both = torch.stack([weights, 2 * weights]).detach().requires_grad_()
    nones = torch.zeros(2, 4, 0).double()
    assert torch.autograd.gradcheck(lambda w, d: of_distance(MATERN52, nones, nones, w, d), (both, apart))


def test_frozen_hyperparameters_stay_where_they_are():
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
    kernel.base_kernel.lengthscale = 0.05
    kernel.base_kernel.raw_lengthscale.requires_grad_(False)
    own = GPyTorchKernel(kernel)
    theta = prior(own)
    assert list(theta) == ["k.outputscale"]
    found = own(theta, "k", X, Z, LAYOUT)
    expected = theta["k.outputscale"][:, None, None] * torch.exp(-0.5 * torch.cdist(X, Z).square() / 0.05**2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)  # the value was set in single precision


@pytest.mark.parametrize(
    "kernel, message",
    [
        (lambda: gpytorch.kernels.RBFKernel(active_dims=[0], ard_num_dims=2), "as many length scales"),
        (lambda: gpytorch.kernels.RBFKernel(active_dims=[-1]), "count them from 0"),
        (
            lambda: gpytorch.kernels.RBFKernel(
                ard_num_dims=3, lengthscale_prior=gpytorch.priors.MultivariateNormalPrior(torch.zeros(3), torch.eye(3))
            ),
            "links its entries",
        ),
    ],
)
def test_kernels_that_cannot_work_are_refused(kernel, message):
    with pytest.raises(ValueError, match=message):
        GPyTorchKernel(kernel()).prior("k", LAYOUT)


def test_what_a_kernel_holds_is_told_apart():
    from bayestl.archive import describe

    found = []
    for value in (0.1, 5.0):
        kernel = gpytorch.kernels.RBFKernel()
        kernel.lengthscale = value
        found.append(describe(GPyTorchKernel(kernel)))
    assert found[0] != found[1]


def test_a_column_that_is_described_may_be_named():
    frame = pd.DataFrame({"formula": ["GaAs", "InP", "ZnO", "GaN", "InAs", "ZnS"], "t": np.linspace(0, 1, 6)})
    frame["y"] = np.arange(6.0)
    data = btl.TaskData.from_wide(frame, inputs=["formula", "t"], tasks=["y"])
    described = [name.name for name in data.inputs if name.source == "formula"]
    by_column = btl.SingleTask(kernel=btl.Matern52(["formula"]) * btl.Matern52(["t"]))
    by_inputs = btl.SingleTask(kernel=btl.Matern52(described) * btl.Matern52(["t"]))
    means = [btl.fit(own, data, method="map").predict(frame)["mean"].values for own in (by_column, by_inputs)]
    np.testing.assert_array_equal(*means)
    with pytest.raises(btl.DataError, match="names inputs 'composition'; the data have 'formula', 't'"):
        btl.fit(btl.SingleTask(kernel=btl.Matern52(["composition"])), data)
