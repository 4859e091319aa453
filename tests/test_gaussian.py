import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from bayestl.errors import FitError
from bayestl.gaussian import mixture
from bayestl.gaussian.conditional import Conditioned
from bayestl.gaussian.exact import FAILED, GaussianMarginal, inverse_blocks, robust_cholesky, triangular_inverse


def random_covariance(n=7, batch=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, n, n, dtype=torch.float64, generator=g)
    return a @ a.mT + 0.1 * torch.eye(n), torch.randn(n, dtype=torch.float64, generator=g)


def test_log_marginal_and_its_gradient_agree_with_torch():
    covariance, y = random_covariance()
    covariance.requires_grad_()
    mean = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    ours = GaussianMarginal(mean, covariance).log_prob(y)
    theirs = torch.distributions.MultivariateNormal(mean, covariance).log_prob(y)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), [covariance, mean]),
        torch.autograd.grad(theirs.sum(), [covariance, mean]),
        strict=True,
    ):
        torch.testing.assert_close((a + a.mT) / 2 if a.dim() > 1 else a, (b + b.mT) / 2 if b.dim() > 1 else b)


def test_one_bad_particle_does_not_stop_the_others():
    covariance, y = random_covariance()
    covariance[1] = -torch.eye(7)
    covariance.requires_grad_()
    value = GaussianMarginal(torch.zeros(7), covariance).log_prob(y)
    (gradient,) = torch.autograd.grad(value.sum(), covariance)
    assert value[1] == FAILED
    assert (gradient[1] == 0).all()
    assert value[[0, 2]].isfinite().all()
    assert (gradient[[0, 2]] != 0).any()


def test_samples_have_the_stated_moments():
    covariance, _ = random_covariance(batch=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = GaussianMarginal(torch.full((7,), 2.0, dtype=torch.float64), covariance[0]).rsample((60_000,))
    torch.testing.assert_close(draws.mean(0), torch.full((7,), 2.0, dtype=torch.float64), atol=0.06, rtol=0)
    torch.testing.assert_close(draws.T.cov(), covariance[0], atol=0.4, rtol=0.05)


def test_conditioning_agrees_with_the_textbook():
    covariance, y = random_covariance(n=10, batch=2)
    prior, cross, observed = covariance[:, 7:, 7:], covariance[:, 7:, :7], covariance[:, :7, :7]
    solved = Conditioned(observed, y[:7])
    gain = cross @ torch.linalg.inv(observed)
    torch.testing.assert_close(solved.mean(cross), gain @ y[:7])
    expected = prior - gain @ cross.mT
    torch.testing.assert_close(solved.covariance(prior, cross), expected)
    torch.testing.assert_close(
        solved.variance(prior.diagonal(dim1=-2, dim2=-1), cross), expected.diagonal(dim1=-2, dim2=-1)
    )


def test_jitter_is_the_least_that_works_and_told():
    singular = torch.ones(3, 3, dtype=torch.float64)
    factor, jitter = robust_cholesky(singular)
    assert 0 < jitter <= 1e-8
    torch.testing.assert_close(factor @ factor.mT, singular, atol=1e-7, rtol=0)
    with pytest.warns(UserWarning, match="jitter"):
        Conditioned(singular, torch.ones(3, dtype=torch.float64))
    with pytest.raises(FitError, match="not positive definite"):
        robust_cholesky(-singular)


MEAN = torch.tensor([[0.0, 1e6], [3.0, 1e6 + 1], [-20.0, 1e6]], dtype=torch.float64)
STD = torch.tensor([[1.0, 1e-3], [0.1, 2.0], [1e-6, 1e-3]], dtype=torch.float64)


def test_mixture_quantiles_invert_the_mixture():
    levels = (0.001, 0.05, 0.3, 0.5, 0.9, 0.999)
    found = mixture.quantiles(MEAN, STD, levels)
    for level, y in zip(levels, found, strict=True):
        torch.testing.assert_close(mixture.cdf(y, MEAN, STD), torch.full((2,), level).double(), atol=1e-6, rtol=0)
    assert (found.diff(dim=0) > 0).all()


def test_mixture_quantiles_are_found_among_narrow_peaks_far_apart():
    """Newton's steps lead astray there, and were all that was done: probabilities were off by a tenth."""
    g = torch.Generator().manual_seed(0)
    mean, std = 30 * torch.randn(50, 100, generator=g).double(), torch.rand(50, 100, generator=g).double() ** 4 + 1e-4
    levels = [i / 100 for i in range(1, 100)]
    found = mixture.quantiles(mean, std, levels)  # each from the one before
    for level, y in zip(levels, found, strict=True):
        np.testing.assert_allclose(mixture.cdf(y, mean, std), level, atol=1e-7)


def test_quantiles_of_one_component_are_the_normals():
    levels = [0.01, 0.5, 0.975]
    found = mixture.quantiles(MEAN[:1], STD[:1], levels)
    expected = scipy.stats.norm.ppf(np.array(levels)[:, None], MEAN[0].numpy(), STD[0].numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_mixture_scores_agree_with_integration():
    mean, std, y = torch.tensor([-1.0, 0.5, 2.0]).double(), torch.tensor([0.3, 1.0, 0.5]).double(), 0.7
    density = scipy.stats.norm.pdf(y, mean, std).mean()
    assert mixture.log_density(torch.tensor(y), mean, std).item() == pytest.approx(np.log(density))

    def squared(t):
        return (scipy.stats.norm.cdf(t, mean, std).mean() - (t >= y)) ** 2

    expected = scipy.integrate.quad(squared, -6, y)[0] + scipy.integrate.quad(squared, y, 8)[0]
    assert mixture.crps(torch.tensor(y).double(), mean, std).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("apart", [0.1, 1.0, 30.0])
def test_the_score_of_many_components_is_that_of_all_their_pairs(apart, monkeypatch):
    """Overlapping ones, ones as far apart as they are wide, narrow ones far apart; with tails over ten orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    centre = apart * torch.randn(12, 1, 5, generator=generator).double()
    u = torch.linspace(-12, 3, 40).double()[:, None]
    mean = (centre + 0 * u).reshape(-1, 5)
    std = (0.1 * torch.exp(-u / 2)).expand(12, 40, 5).reshape(-1, 5)
    weight = torch.softmax(1.5 * (u - u.exp()), 0).repeat(12, 1) / 12
    y = torch.tensor([-3.0, 0.0, 0.5, 4.0, 1e3]).double()
    found = mixture.crps(y, mean, std, weight)
    monkeypatch.setattr(mixture, "PAIRS", len(mean))
    torch.testing.assert_close(found, mixture.crps(y, mean, std, weight), rtol=2e-3, atol=0)


@pytest.mark.parametrize("n", [1, 7, 257, 700])
def test_triangles_are_inverted_by_halves(n):
    x = torch.linspace(0, 3, n).double()
    covariance = torch.exp(-(x[:, None] - x).square()) + 0.1 * torch.eye(n).double()
    factor = torch.linalg.cholesky(covariance).expand(2, n, n)
    inverse = triangular_inverse(factor)
    torch.testing.assert_close(inverse @ factor, torch.eye(n).double().expand(2, n, n), rtol=0, atol=1e-11)
    assert torch.equal(inverse, inverse.tril())
    where = torch.arange(n - n % 2).reshape(-1, 2) if n > 1 else torch.zeros(1, 1).long()
    precision = torch.linalg.inv(covariance)
    for own in (where, torch.arange(n)[:, None]):
        expected = precision[own.unsqueeze(-1), own.unsqueeze(-2)].expand(2, *own.shape, own.shape[-1])
        torch.testing.assert_close(inverse_blocks(inverse, own), expected, rtol=1e-9, atol=1e-9)


def test_each_matrix_takes_the_jitter_that_it_needs():
    """One draw's near-singular matrix changed the factors of all that stood beside it."""
    sound, rough = torch.eye(3).double() + 0.5, torch.ones(3, 3).double()
    worse = rough.clone()
    worse[0, 0] -= 1e-9
    together, most = robust_cholesky(torch.stack([sound, rough, worse]))
    alone = [robust_cholesky(one) for one in (sound, rough, worse)]
    for found, (factor, _) in zip(together, alone, strict=True):
        torch.testing.assert_close(found, factor, rtol=0, atol=0)
    assert [jitter for _, jitter in alone] == [0.0, 1e-12, 1e-8]
    assert most == 1e-8
