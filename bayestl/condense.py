"""Large tables: the pass that condenses all rows onto inducing pairs, and what it teaches of the noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bayestl.errors import notice
from bayestl.gaussian.conditional import Projected
from bayestl.gaussian.exact import robust_cholesky
from bayestl.gaussian.greedy import pivoted_cholesky
from bayestl.gaussian.inducing import Sums, Weights, log_evidence, log_volume
from bayestl.gaussian.sites import Site, ascend, first_order, step_from
from bayestl.models.base import Model
from bayestl.models.problem import Piece, Problem
from bayestl.priors import Theta
from bayestl.scaling import Layout, Pairs, Scaling
from bayestl.selection import shares, typical
from bayestl.table import TaskData

LOOSE = 0.03  # share of the prior variance untold above which a warning is due
CHUNK = 2048  # rows at a time: large enough for matrix products, small enough for the caches
GPU_CHUNK = 2**16  # and on a GPU, where each operation costs as long as some thousand rows
TELLING = 0.3  # share of the noise variance, left untold, up to which rows teach it
MANY, ROUNDS = 16_384, 10  # rows, and rounds of expectation maximisation, that teach the noise
SETTLED, STEPS = 1e-3, 60  # of the bound of site rows, which are many here

Source = Callable[[], Problem]


def keep_memory() -> None:
    """Teach glibc's malloc to keep the memory of large temporaries instead of returning it to the system after each use.

    A large block, allocated, never touched and freed, raises the threshold above which it would (mallopt(3): it is dynamic);
    page faults would cost a third more.
    """
    torch.empty(2**22 - 2**16, dtype=torch.float64)


# -- noise ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def relearn_noise(
    model: Model, data: TaskData, scaling: Scaling, theta: Theta, pairs: Pairs, learned: NDArray[np.int64], seed: int
) -> Theta:
    """Learn the noise of rich tasks again, from up to 16,384 rows in all: that of n rows costs ``1 / 2n`` nats a prediction.

    Expectation maximisation of the evidence that `condense` bounds, at the median of the draws: with q the law of the functions
    given all these rows, ``noise_t^2 = mean_i (E_q[(y_i - f_i)^2] - untold_i)`` over the rows of task t. The draws keep their
    order, and their spread shrinks as that of so many more rows. Tasks with known errors, or whose rows are not all normal,
    stay as they are, and so do those of which the pairs leave more untold than a share TELLING of their noise: what would be
    learned is then the difference of two large numbers.

    Parameters
    ----------
    learned : number of rows of each task that theta was learned from
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(data), dtype=bool)
    for t, count in enumerate(shares(np.bincount(data.task_index, minlength=len(data.tasks)), MANY)):
        chosen[rng.permutation(np.flatnonzero(data.task_index == t))[:count]] = True
    problem = Problem.of(model, data.where(chosen, empty=True), scaling)
    pieces = [piece for piece in problem.pieces if piece.law.exact and len(piece.at)]
    total = np.bincount(problem.data.task_index, minlength=len(data.tasks))
    free = [
        k for k, piece in enumerate(pieces)
        if len(piece.at) == total[t := piece.task] > 2 * learned[t] and piece.rows.error.isnan().all()
    ]  # fmt: skip
    if not free:
        return theta
    one = typical(theta, keep=True)
    factor = factors(model, one, pairs, problem.layout)
    sums = [_normal(replace(problem, pieces=(piece,)), one, pairs, factor, "cpu")[0] for piece in pieces]
    free = [k for k in free if float(sums[k].residual) <= TELLING * len(pieces[k].at)]
    if not free:
        return theta
    ratio = [torch.ones(1, dtype=torch.float64) for _ in pieces]  # of the new variance to the old
    for _ in range(ROUNDS):
        gram = sum((own.gram / r[:, None, None] for own, r in zip(sums, ratio, strict=True)), torch.zeros(()))
        moment = sum((own.moment / r[:, None] for own, r in zip(sums, ratio, strict=True)), torch.zeros(()))
        q = Weights.given(gram, moment)
        for k in free:
            left = -2 * (q.expected(sums[k]) + sums[k].residual) - sums[k].volume
            ratio[k] = (left / len(pieces[k].at)).clamp_min(0.25)
    noise = theta["noise"].clone()
    for k in free:
        own, t = noise[:, problem.layout.noisy.index(pieces[k].task)], pieces[k].task
        off = own.log() - own.log().median()
        own.copy_(own.median() * ratio[k].sqrt() * (off * np.sqrt(learned[t] / total[t])).exp())
    return theta | {"noise": noise}


# -- the pass ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Inducing:
    """Rows condensed onto inducing pairs, for each of several draws of theta.

    Attributes
    ----------
    pairs : where the functions are held
    gram, moment : what the rows add to the precision of the weights of the features, and to precision times mean
    bound : lower bound of the log evidence of the rows
    rows, exact : how many were condensed, and how many of these were normal
    untold : share of the prior variance that the pairs do not tell
    blur : mean variance that the pairs do not tell of a normal row, in units of that of its noise
    owner : which of the S a draw belongs to, where several draws share one
    grown : whether pairs were added when rows had been condensed already, whose sums say nothing of them
    """

    pairs: Pairs
    gram: Float[Tensor, "S m m"]
    moment: Float[Tensor, "S m"]
    bound: Float[Tensor, " S"]
    rows: int
    exact: int
    untold: float
    blur: float
    owner: Int[Tensor, " D"] | None = None
    grown: bool = False

    def taken(self, draws: Int[Tensor, " D"]) -> Inducing:
        """Take some of the draws, repeatedly perhaps."""
        return replace(self, owner=draws if self.owner is None else self.owner[draws])

    def apart(self) -> Inducing:
        """Every draw with sums of its own."""
        if (own := self.owner) is None:
            return self
        return replace(self, gram=self.gram[own], moment=self.moment[own], bound=self.bound[own], owner=None)

    @property
    def loose(self) -> bool:
        """Whether the pairs leave so much untold that it is warned of."""
        return self.untold > LOOSE or self.blur > 1.0

    def softened(self, rows: Problem, theta: Theta) -> Inducing:
        """The same rows, each normal one as uncertain as its noise *and* what the pairs do not tell of it.

        The fully independent training conditional of Snelson & Ghahramani 2006 in place of the bound of Titsias, under which the
        weights of the features are known too well where much is untold. Sums of others stay as they are: they must be of all
        pairs.
        """
        held, soft = self._compact(), self._sums(rows, theta, True)
        if all(piece.law.exact for piece in rows.pieces if len(piece.at)):
            return replace(held, gram=soft.gram, moment=soft.moment, grown=False)
        if self.grown:
            raise ValueError("Sums of rows that are not normal were not taken over all pairs.")
        hard = self._sums(rows, theta, False)
        return replace(held, gram=held.gram + (soft.gram - hard.gram), moment=held.moment + (soft.moment - hard.moment))

    def without(self, some: Problem, theta: Theta) -> Inducing:
        """The softened sums without those of some of the rows, which are normal."""
        held, sums = self._compact(), self._sums(some, theta, True)
        return replace(held, gram=held.gram - sums.gram, moment=held.moment - sums.moment)

    def _sums(self, some: Problem, theta: Theta, soft: bool) -> Sums:
        """Sums over normal rows anew, under the first of the draws that share one."""
        if self.owner is not None:
            first = torch.stack([(self.owner == own).nonzero()[0, 0] for own in self.owner.unique()])
            theta = {name: value[first] for name, value in theta.items()}
        return _normal(some, theta, self.pairs, factors(some.model, theta, self.pairs, some.layout), "cpu", soft)[0]

    def _compact(self) -> Inducing:
        """Only sums that a draw belongs to."""
        if self.owner is None:
            return self
        kept, owner = self.owner.unique(return_inverse=True)
        return replace(self, gram=self.gram[kept], moment=self.moment[kept], bound=self.bound[kept], owner=owner)

    def conditional(self, model: Model, theta: Theta, layout: Layout, part: slice | Tensor) -> Projected:
        """Condition on the rows under some of the draws, whose `theta` is given."""
        own = part if self.owner is None else self.owner[part]
        return Projected(factors(model, theta, self.pairs, layout), self.gram[own], self.moment[own])


class _Step(NamedTuple):
    """Sums over the sites, the law of the weights and the bound that they make, and where a full step leads."""

    gram: Tensor
    moment: Tensor
    q: Weights
    bound: Tensor
    next_gram: Tensor
    next_moment: Tensor


def _rise(best: _Step, trial: _Step) -> Tensor:
    """What the bound gains from one law of the weights to another to first order."""
    ahead = Site(best.next_moment - best.moment, best.next_gram - best.gram)
    cov, new = (torch.cholesky_inverse(step.q.factor) for step in (best, trial))
    return first_order(ahead, best.q.mean, cov, trial.q.mean, new)


def condense(
    sources: Sequence[Source],
    model: Model,
    layout: Layout,
    theta: Theta,
    pairs: Pairs,
    untold: float = 0.0,
    base: Inducing | None = None,
    device: str = "cpu",
    total: Callable[..., Any] | None = None,
) -> Inducing:
    """Sum over all rows of all sources, and let the sites of observations that are not normal settle.

    Sites enter only through the sums of ``phi lambda phi'`` and ``phi eta``, which are linear in them, so a damped step of all
    sites is the same step of the sums, and no site need be kept.

    Parameters
    ----------
    base : rows condensed before, to which these are added
    total : how to sum a function over the sources, by default one after another
    """
    total = total or in_turn
    factor = factors(model, theta, pairs, layout)
    size = len(pairs.output)
    draws = len(factor)
    normal, count, others = total(partial(_normal, theta=theta, pairs=pairs, factor=factor, device=device), sources)
    start = (
        Sums.zero(draws, size) if base is None else Sums.zero(draws, size)._replace(gram=base.gram, moment=base.moment)
    )
    known = start.plus(normal)
    rows, exact, blurred, grown = count + others, count, float(normal.residual.mean()), False
    if base is not None:
        rows, exact, grown = rows + base.rows, exact + base.exact, base.grown
        blurred += base.blur * base.exact
    blur = blurred / max(exact, 1)
    if not others:
        bound = log_evidence(normal) if base is None else base.bound + torch.nan
        return Inducing(pairs, known.gram, known.moment, bound, rows, exact, untold, blur, grown=grown)

    def evaluate(state: tuple[Tensor, Tensor]) -> _Step:
        gram, moment = state
        q = Weights.given(known.gram + gram, known.moment + moment)
        sums, value = total(partial(_sites, theta=theta, pairs=pairs, factor=factor, q=q, device=device), sources)
        bound = value + q.expected(start.plus(normal)) - q.divergence()
        return _Step(gram, moment, q, bound, sums.gram, sums.moment)

    first, _ = total(partial(_sites, theta=theta, pairs=pairs, factor=factor, q=None, device=device), sources)
    best, _, settled = ascend(
        evaluate, (first.gram, first.moment), lambda s: (s.gram, s.moment), lambda s: (s.next_gram, s.next_moment),
        _rise, SETTLED, STEPS,
    )  # fmt: skip
    if not settled.all():
        notice(
            f"The Gaussian sites of the observations did not settle within {STEPS} passes for every draw of theta; the "
            "predictions of those draws may be off."
        )
    gram, moment = known.gram + best.gram, known.moment + best.moment
    return Inducing(pairs, gram, moment, best.bound, rows, exact, untold, blur, grown=grown)


def more_pairs(inducing: Inducing, problem: Problem, theta: Theta, most: int) -> Inducing:
    """Add pairs among the points of new rows, so that these can be told too.

    Under the longer list the features of the old rows are the old features, and beside them what they say of the new pairs
    that the old pairs did not: taken to be nothing. So the sums grow by zeros.
    """
    model, layout, points = problem.model, problem.layout, problem.points
    one = typical(theta, keep=True)
    factor = factors(model, one, inducing.pairs, layout)
    phi = torch.linalg.solve_triangular(factor, model.covariance(one, inducing.pairs, points, layout), upper=False)[0]
    left = (model.variance(one, points, layout)[0] - phi.square().sum(0)).clamp_min(0.0)

    def column(i: int) -> Tensor:
        return model.covariance(one, points.take(torch.tensor([i])), points, layout)[0, 0] - phi[:, i] @ phi

    all_of_it = float(model.variance(one, points, layout).sum())
    told = pivoted_cholesky(left, column, most, lambda rest, _: float(rest.sum()) <= 1e-6 * all_of_it)
    chosen = told.pivots.sort().values
    new = points.take(chosen)
    size, grown = len(inducing.pairs.output), len(inducing.pairs.output) + len(chosen)
    gram = inducing.gram.new_zeros(len(inducing.gram), grown, grown)
    gram[:, :size, :size] = inducing.gram
    moment = torch.nn.functional.pad(inducing.moment, (0, len(chosen)))
    pairs = Pairs(torch.cat([inducing.pairs.x, new.x]), torch.cat([inducing.pairs.output, new.output]))
    return replace(inducing, pairs=pairs, gram=gram, moment=moment, grown=True)


def in_turn(function: Callable[[Problem], tuple[Any, ...]], sources: Sequence[Source]) -> tuple[Any, ...]:
    """Sum a function over the sources, one after another."""
    return reduce(add, (function(source()) for source in sources))


def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add entry by entry."""
    return tuple(x.plus(y) if isinstance(x, Sums) else x + y for x, y in zip(a, b, strict=True))


def factors(model: Model, theta: Theta, pairs: Pairs, layout: Layout) -> Float[Tensor, "S m m"]:
    """Cholesky factors of the covariance of the functions at the pairs."""
    return robust_cholesky(model.covariance(theta, pairs, pairs, layout))[0]


def _features(
    model: Model, theta: Theta, layout: Layout, x: Tensor, outputs: list[int], pairs: Pairs, factor: Tensor
) -> Iterator[Float[Tensor, "*#draws r m"]]:
    """``phi = L^-1 Cov[u, f]``, for one function after another, in the place of the covariance."""
    for cross in model.cross(theta, x, outputs, pairs, layout):
        phi = cross.expand(*factor.shape[:-2], len(x), -1).mT.contiguous().mT
        yield torch.linalg.solve_triangular(factor.mT, phi, upper=True, left=False, out=phi)


_Part = tuple[Piece, Tensor, list[int]]


def _parts(problem: Problem, exact: bool, device: str) -> Iterator[_Part]:
    """Observations a few at a time, with their inputs and the functions that they depend on."""
    chunk = CHUNK if device == "cpu" else GPU_CHUNK
    for piece in problem.pieces:
        if piece.law.exact != exact or len(piece.at) == 0:
            continue
        outputs = problem.points.output[piece.where[0]].tolist()
        for start in range(0, len(piece.at), chunk):
            rows = torch.arange(start, min(start + chunk, len(piece.at)))
            part = piece._replace(rows=piece.rows.take(rows), where=piece.where[rows], at=piece.at[rows])
            yield part, problem.points.x[part.where[:, 0]], outputs


def _draws(theta: Theta, factor: Tensor, device: str) -> list[tuple[Theta, Theta, Tensor]]:
    """Each draw of theta, as a batch of one here and alone on the device, and its factor there.

    Rows are the outer loop and draws the inner one: distances of descriptors, which cost the most, are the same for all draws.
    """
    return [
        (
            {name: value[s : s + 1] for name, value in theta.items()},
            {name: value[s].to(device) for name, value in theta.items()},
            held.to(device),
        )
        for s, held in enumerate(factor)
    ]


def _normal(
    problem: Problem, theta: Theta, pairs: Pairs, factor: Tensor, device: str, soft: bool = False
) -> tuple[Sums, int, int]:
    """Sums over the normal rows; their number; and that of the others. See `Inducing.softened`."""
    keep_memory()
    work = partial(_normal_sums, problem, theta, pairs, factor, device, soft)
    sums = reduce(Sums.plus, _in_threads(work, list(_parts(problem, exact=True, device=device)), device))
    exact = sum(len(piece.at) for piece in problem.pieces if piece.law.exact)
    others = sum(len(piece.at) for piece in problem.pieces if not piece.law.exact)
    sums = Sums(*(part.cpu() for part in sums))
    return sums._replace(gram=_mirrored(sums.gram)), exact, others


def _normal_sums(
    problem: Problem, theta: Theta, pairs: Pairs, factor: Tensor, device: str, soft: bool, parts: list[_Part]
) -> Sums:
    model, layout = problem.model, problem.layout
    sums = Sums.zero(len(factor), len(pairs.output), device)
    held = Pairs(pairs.x.to(device), pairs.output)
    draws = _draws(theta, factor, device)
    for part, x, outputs in parts:
        x, count = x.to(device), len(x)
        at = Pairs(x, torch.full((count,), outputs[0]))
        for s, (one, own, held_factor) in enumerate(draws):
            gram, moment = sums.gram[s], sums.moment[s]
            p = problem.parameters_of(one, part.task)
            noise = part.law.noise_variance(part.rows, p)  # type: ignore[attr-defined]
            y, slope = part.law.standardised(part.rows, p)
            w = 1 / noise.reshape(-1).expand(count).to(device)
            r = y.reshape(-1).to(device) - model.mean(own, at, layout)
            (phi,) = _features(model, own, layout, x, outputs, held, held_factor)
            if soft:
                w = 1 / (1 / w + (model.variance(own, at, layout) - phi.square().sum(-1)).clamp_min(0.0))
            sums.square[s] += (w * r.square()).sum()
            sums.volume[s] += log_volume(w).sum() - 2 * slope.sum().to(device)
            sums.residual[s] += (w * model.variance(own, at, layout)).sum()
            phi = phi.mul_(w.sqrt().unsqueeze(-1))
            add_gram(gram, phi)
            moment.addmv_(phi.mT, w.sqrt() * r)
    sums.residual.sub_(sums.gram.diagonal(dim1=-2, dim2=-1).sum(-1))  # sum_i w_i |phi_i|^2
    return sums._replace(residual=sums.residual.clamp_min(0.0))


def _sites(
    problem: Problem, theta: Theta, pairs: Pairs, factor: Tensor, q: Weights | None, device: str
) -> tuple[Sums, Tensor]:
    """Sums over the sites that a full step from q leads to, and the expected log density of the rows under q.

    Without q the step is from the prior, or from where the likelihood of counts is known to peak.
    """
    keep_memory()
    work = partial(_site_sums, problem, theta, pairs, factor, q, device)
    sums, value = reduce(add, _in_threads(work, list(_parts(problem, exact=False, device=device)), device))
    sums = Sums(*(part.cpu() for part in sums))
    return sums._replace(gram=_mirrored(sums.gram)), value


def _site_sums(
    problem: Problem,
    theta: Theta,
    pairs: Pairs,
    factor: Tensor,
    q: Weights | None,
    device: str,
    parts: list[_Part],
) -> tuple[Sums, Tensor]:
    model, layout = problem.model, problem.layout
    sums, value = Sums.zero(len(factor), len(pairs.output), device), torch.zeros(len(factor), dtype=torch.float64)
    held = Pairs(pairs.x.to(device), pairs.output)
    draws = _draws(theta, factor, device)
    for part, x, outputs in parts:
        x = x.to(device)
        for s, (one, own, held_factor) in enumerate(draws):
            gram, moment = sums.gram[s], sums.moment[s]
            phi = torch.stack(list(_features(model, own, layout, x, outputs, held, held_factor)))  # (c, r, m)
            start = torch.stack([model.mean(own, Pairs(x, torch.full((len(x),), o)), layout) for o in outputs], -1)
            mean, cov = start, model.among(own, x, outputs, layout)
            if q is not None:
                white = torch.linalg.solve_triangular(q.factor[s].to(device), phi.mT, upper=False)
                told = torch.einsum("crm,drm->rcd", phi, phi)
                cov = cov - told + torch.einsum("cmr,dmr->rcd", white, white)
                cov.diagonal(dim1=-2, dim2=-1).clamp_min_(1e-12)
                mean = start + (phi @ q.mean[s].to(device)).mT
            elif (guess := part.law.guess(part.rows)) is not None:
                mean, cov = guess[0].expand_as(start), torch.diag_embed(guess[1].expand_as(start))
            mean = mean.unsqueeze(0).cpu()
            expected = part.law.expect(part.rows, problem.parameters_of(one, part.task))(mean, cov.unsqueeze(0).cpu())
            site = step_from(mean, expected)
            value[s] += expected.value.sum()
            precision = site.precision[0].to(device)
            natural = site.natural[0].to(device) - (precision @ start.unsqueeze(-1)).squeeze(-1)
            root_precision = torch.linalg.cholesky(precision)
            for k in range(len(outputs)):  # lambda = C C': as many weighted features as functions
                add_gram(gram, torch.einsum("crm,rc->rm", phi, root_precision[..., k]))
            moment.add_(torch.einsum("crm,rc->m", phi, natural))
    return sums, value


def _in_threads(work: Callable[[list[_Part]], Any], parts: list[_Part], device: str) -> list[Any]:
    """Do some work on shares of the parts, a thread and a core for each.

    Of one operation after another on all cores only products of matrices would be twice as fast on two.
    """
    threads = torch.get_num_threads() if device == "cpu" else 1

    def alone(share: list[_Part]) -> Any:
        torch.set_num_threads(1)  # of this thread's operations
        with torch.no_grad():
            return work(share)

    if threads == 1 or len(parts) < threads:
        with torch.no_grad():
            return [work(parts)]
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, [parts[i::threads] for i in range(threads)]))
    finally:
        torch.set_num_threads(threads)


def add_gram(gram: Float[Tensor, "m m"], features: Float[Tensor, "r m"], block: int = 64) -> None:
    """Add ``features' features`` to the lower triangle of `gram`, in blocks: nearly half of a product is its mirror image."""
    for start in range(0, gram.shape[0], block):
        own = slice(start, start + block)
        gram[start:, own].addmm_(features[:, start:].mT, features[:, own])


def _mirrored(gram: Float[Tensor, "S m m"]) -> Float[Tensor, "S m m"]:
    """A symmetric matrix from its lower triangle."""
    return gram.tril() + gram.tril(-1).mT
