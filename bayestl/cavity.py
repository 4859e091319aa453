"""What all other rows say of a row, or of a group of rows, without refitting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bayestl.condense import Inducing, factors
from bayestl.gaussian.conditional import Conditional, Conditioned, Updated
from bayestl.gaussian.exact import factorise, inverse_blocks, log_density, triangular_inverse
from bayestl.gaussian.sites import Site, noise_of, step_from
from bayestl.likelihoods.predictive import Predictive
from bayestl.models.problem import Piece, Problem
from bayestl.priors import Theta
from bayestl.regression import Regression
from bayestl.scaling import Pairs

WORKING = 4000  # points of groups that are worked on at a time
MOST = 1 - 1e-6  # of what is known of a function, that its own site may have told


class LeftOut(NamedTuple):
    """Some rows of one task under some draws of theta, given all rows outside their groups.

    `mean` (S, G, c) and `cov` (S, G, c, c) are of the task's functions, numbered `functions`; `rows` are the rows and
    `groups` the groups that they belong to; `log_joint` is the log density of all rows of each group together where all of
    them are normal, else None.
    """

    draws: slice
    task: int
    functions: list[int]
    rows: Int[Tensor, " G"]
    groups: Int[Tensor, " G"]
    mean: Float[Tensor, "S G c"]
    cov: Float[Tensor, "S G c c"]
    log_joint: Float[Tensor, "S G"] | None


@dataclass(frozen=True, eq=False)
class _Bucket:
    """Groups of the same make: entry e of each is an observation of piece `pieces[e]`, of the group's row number `rows[e]`.

    `hidden` are the functions of the rows' tasks that their observations do not touch, as the size of what is zero: the row's
    number, the number of the function in its task, and among all.
    """

    pieces: tuple[int, ...]
    rows: tuple[int, ...]
    hidden: tuple[tuple[int, int, int], ...]
    groups: Int[Tensor, " G"]
    entries: Int[Tensor, "G E"]  # position in the piece
    index: Int[Tensor, "G R"]  # rows of the data


def left_out(
    regression: Regression,
    observed: Problem,
    groups: NDArray[np.int64] | None = None,
    wanted: NDArray[np.bool_] | None = None,
    in_sums: NDArray[np.bool_] | None = None,
    settled: Inducing | None = None,
) -> Iterator[LeftOut]:
    """Leave out one group after another (each row by itself by default), for every draw of theta; of the `wanted` rows only.

    With K the covariance of the pseudo-data and G the points of a group, ``Cov[y_G | rest] = ((K^-1)_GG)^-1``, and
    ``y_G - E[y_G | rest]`` is that times ``alpha_G`` (Rasmussen & Williams 2006, eq. 5.12, in blocks): exact for
    normal observations. Others are their pseudo-data, of which the noise is the inverse precision of the site; the sites of
    all other rows stay as they are. On a condensed table sites are taken out of the posterior of what they are of, T, as
    ``(I - T Lambda)^-1 T``, found anew by the step from T that they would take; rows that are `in_sums` have sites that hold
    what the inducing pairs tell of them; others are held whole. `settled` is what the sites of rows in the sums settled in,
    where the sums are others by now.
    """
    buckets = _buckets(observed, groups, wanted)
    held = torch.from_numpy(np.zeros(len(observed.data), dtype=bool) if in_sums is None else in_sums)
    for draws, theta, solved in regression.batches():
        first = solved.base if isinstance(solved, Updated) else None
        if settled is not None:
            first = settled.conditional(observed.model, theta, observed.layout, draws)
        leave = (
            partial(_by_precision, observed, theta, solved, triangular_inverse(solved.factor))
            if isinstance(solved, Conditioned)
            else partial(_by_sites, regression, observed, theta, solved, held, first, _of_pairs(regression, theta))
        )
        for bucket in buckets:
            size = sum(observed.pieces[k].where.shape[1] for k in bucket.pieces) + len(bucket.hidden)
            for chosen in torch.arange(len(bucket.groups)).split(max(1, WORKING // size)):
                part = replace(
                    bucket, groups=bucket.groups[chosen], entries=bucket.entries[chosen], index=bucket.index[chosen]
                )
                yield from _rows(observed, draws, part, *leave(part))


def leave_one_out(
    regression: Regression,
    observed: Problem,
    wanted: NDArray[np.bool_] | None = None,
    in_sums: NDArray[np.bool_] | None = None,
    settled: Inducing | None = None,
) -> Float[Tensor, "S n"]:
    """``log p(y_i | y_-i, theta)`` for every draw and observation, in the tasks' units; zero for those not `wanted`."""
    out = torch.zeros(regression.draws, len(observed.data.values), dtype=torch.float64)
    for found in left_out(regression, observed, None, wanted, in_sums, settled):
        theta = {name: value[found.draws] for name, value in regression.theta.items()}
        own = found.log_joint
        out[found.draws, found.rows] = densities(observed, theta, found) if own is None else own
    return out


def densities(observed: Problem, theta: Theta, found: LeftOut) -> Float[Tensor, "S G"]:
    """Log predictive density of rows that were left out, under each draw."""
    rows = observed.rows(found.task, found.rows)
    return torch.stack([law.log_density(rows.y) for law in laws(observed, theta, found)])


def laws(observed: Problem, theta: Theta, found: LeftOut) -> Iterator[Predictive]:
    """What is predicted of rows that were left out, draw by draw, as measurements with the errors that they have."""
    order = torch.tensor(found.functions).argsort()
    mean, cov = found.mean[..., order], found.cov[..., order[:, None], order]
    rows = observed.rows(found.task, found.rows)
    likelihood = observed.data.tasks[found.task].likelihood
    for s in range(len(mean)):
        one = {name: value[s : s + 1] for name, value in theta.items()}
        noise = observed.measurement_noise(one, found.task, rows)
        p = observed.parameters_of(one, found.task)
        yield likelihood.predictive(mean[s : s + 1], cov[s : s + 1], noise, rows, p)


# -- inside -----------------------------------------------------------------------------------------------------------


def _buckets(observed: Problem, groups: NDArray[np.int64] | None, wanted: NDArray[np.bool_] | None) -> list[_Bucket]:
    of_row = np.arange(len(observed.data)) if groups is None else groups
    piece = np.concatenate([np.full(len(p.at), k) for k, p in enumerate(observed.pieces)])
    entry = np.concatenate([np.arange(len(p.at)) for p in observed.pieces])
    row = np.concatenate([p.at.numpy() for p in observed.pieces])
    if wanted is not None:
        keep = wanted[row]
        piece, entry, row = piece[keep], entry[keep], row[keep]
    order = np.lexsort((piece, row, of_row[row]))
    piece, entry, row = piece[order], entry[order], row[order]
    group = of_row[row]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    made: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for start, stop in zip(starts, np.r_[starts[1:], len(group)], strict=True):
        ordinal = np.r_[0, np.cumsum(row[start + 1 : stop] != row[start : stop - 1])]
        made.setdefault((tuple(piece[start:stop].tolist()), tuple(ordinal.tolist())), []).append(int(start))
    out = []
    for (pieces, rows), where in made.items():
        span = np.array(where)[:, None] + np.arange(len(pieces))
        first = [rows.index(r) for r in range(rows[-1] + 1)]
        hidden = []
        for r, e in enumerate(first):
            seen = {i for k, own in zip(pieces, rows, strict=True) if own == r for i in observed.pieces[k].functions}
            every = observed.layout.contrasts(observed.pieces[pieces[e]].task)
            hidden += [(r, i, o) for i, o in enumerate(every) if i not in seen]
        out.append(
            _Bucket(
                pieces, rows, tuple(hidden), torch.from_numpy(group[span[:, 0]]), torch.from_numpy(entry[span]),
                torch.from_numpy(row[span][:, first]),
            )
        )  # fmt: skip
    return out


def _points(observed: Problem, bucket: _Bucket) -> Int[Tensor, "G s"]:
    return torch.cat([observed.pieces[k].where[bucket.entries[:, e]] for e, k in enumerate(bucket.pieces)], -1)


def _hidden(observed: Problem, bucket: _Bucket, where: Tensor) -> Pairs:
    """Where the functions are that no observation of the groups touches, group by group."""
    spans = [observed.pieces[k].where.shape[1] for k in bucket.pieces]
    first = np.cumsum([0, *spans])[[bucket.rows.index(r) for r, *_ in bucket.hidden]]
    x = observed.points.x[where[:, first].flatten()]
    return Pairs(x, torch.tensor([o for *_, o in bucket.hidden]).repeat(len(where)))


def _taken(observed: Problem, bucket: _Bucket) -> Iterator[tuple[Piece, slice]]:
    """The entries of all groups of a bucket, and where their functions stand among the points of a group."""
    start = 0
    for e, k in enumerate(bucket.pieces):
        piece, rows = observed.pieces[k], bucket.entries[:, e]
        own = slice(start, start + piece.where.shape[1])
        start = own.stop
        yield piece._replace(rows=piece.rows.take(rows), where=piece.where[rows], at=piece.at[rows]), own


def _slopes(observed: Problem, theta: Theta, bucket: _Bucket) -> Tensor:
    """Log volume of the standardisation of the rows of each group."""
    total = torch.zeros(1, len(bucket.groups), dtype=torch.float64)
    for piece, _ in _taken(observed, bucket):
        total = total + piece.law.standardised(piece.rows, observed.parameters_of(theta, piece.task))[1]
    return total


def _by_precision(
    observed: Problem, theta: Theta, solved: Conditioned, inverse: Tensor, bucket: _Bucket
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Moments of the functions of groups, and where all are normal the log density of their rows; `inverse` is ``L^-1``."""
    where = _points(observed, bucket)
    blocks = inverse_blocks(inverse, where)
    alpha = solved.alpha[:, where]
    if where.shape[1] == 1:
        cov = 1 / blocks
        error = cov[..., 0] * alpha
    else:
        cov = torch.cholesky_inverse(torch.linalg.cholesky(blocks))
        error = (cov @ alpha.unsqueeze(-1)).squeeze(-1)
    joint = None
    if all(observed.pieces[k].law.exact for k in bucket.pieces):
        joint = log_density(factorise(cov)[0], error)[0] + _slopes(observed, theta, bucket)
    held = dict(zip((k for k, piece in enumerate(observed.pieces) if not piece.law.exact), solved.sites, strict=True))
    mean, function = -error, cov.clone()
    for e, (piece, own) in enumerate(_taken(observed, bucket)):
        if piece.law.exact:
            p = observed.parameters_of(theta, piece.task)
            noise = piece.law.noise_variance(piece.rows, p)[..., None, None]  # type: ignore[attr-defined]
            values = piece.law.standardised(piece.rows, p)[0].unsqueeze(-1)
        else:
            rows, site = bucket.entries[:, e], held[bucket.pieces[e]]
            site = Site(site.natural[:, rows], site.precision[:, rows])
            noise = noise_of([site])[0]
            values = (noise @ site.natural.unsqueeze(-1)).squeeze(-1)
        mean[..., own] += values
        function[..., own, own] -= noise
    if bucket.hidden:
        own_mean, between, own_cov = _of_hidden(observed, theta, solved, inverse, bucket, cov)
        mean = torch.cat([mean, own_mean], -1)
        function = torch.cat([torch.cat([function, between.mT], -1), torch.cat([between, own_cov], -1)], -2)
    function.diagonal(dim1=-2, dim2=-1).clamp_min_(0.0)
    return mean, function, joint


def _of_hidden(
    observed: Problem, theta: Theta, solved: Conditioned, inverse: Tensor, bucket: _Bucket, cov: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The functions that the observations of a group do not touch, given those outside it.

    With c their covariance with all (pseudo-)data and V, `cov`, that of the group's given the rest, ``Cov[f*, y_G | rest] =
    (c K^-1)_G V``; what the group's own data say of f*, through ``alpha_G`` and ``(c K^-1)_G``, is taken back. Gives their mean,
    their covariance with the group's functions, and their own.
    """
    model, layout, where = observed.model, observed.layout, _points(observed, bucket)
    at, groups, count = _hidden(observed, bucket, where), len(where), len(bucket.hidden)
    cross = model.covariance(theta, at, observed.points, layout)
    told = (cross @ inverse.mT @ inverse).unflatten(-2, (groups, count))
    reach = told.gather(-1, where[:, None, :].expand(*told.shape[:-1], -1))
    between = reach @ cov
    mean = (model.mean(theta, at, layout) + solved.mean(cross)).unflatten(-1, (groups, count))
    mean = mean - (between @ solved.alpha[:, where].unsqueeze(-1)).squeeze(-1)
    prior = _by_group(model.covariance(theta, at, at, layout), groups)
    known = torch.einsum("...gin,...gjn->...gij", told, cross.unflatten(-2, (groups, count)))
    return mean, between, prior - known + between @ reach.mT


def _by_group(matrix: Float[Tensor, "*#draws P P"], groups: int) -> Float[Tensor, "*#draws G s s"]:
    """The blocks of a matrix of all points that belong to one group each."""
    whole = matrix.unflatten(-1, (groups, -1)).unflatten(-3, (groups, -1))
    return whole.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _of_pairs(regression: Regression, theta: Theta) -> tuple[Tensor, Tensor] | None:
    """The factor of the inducing pairs' covariance, and what they tell of the points beside them."""
    if regression.base is None:
        return None
    model, layout, pairs = regression.problem.model, regression.problem.layout, regression.base.pairs
    later = regression.support.take(torch.arange(len(pairs.output), len(regression.support.output)))
    chol = factors(model, theta, pairs, layout)
    return chol, torch.linalg.solve_triangular(chol, model.covariance(theta, pairs, later, layout), upper=False)


def _by_sites(
    regression: Regression,
    observed: Problem,
    theta: Theta,
    solved: Conditional,
    held: Tensor,
    first: Conditional | None,
    of_pairs: tuple[Tensor, Tensor] | None,
    bucket: _Bucket,
) -> tuple[Tensor, Tensor, None]:
    """Moments of the functions of groups, their sites found anew and taken out of the posterior."""
    model, layout, where = observed.model, observed.layout, _points(observed, bucket)
    (groups, seen), at = where.shape, observed.points.take(where.flatten())
    size = seen + len(bucket.hidden)
    if bucket.hidden:  # their sites say nothing
        x = torch.cat(
            [at.x.unflatten(0, (groups, seen)), _hidden(observed, bucket, where).x.unflatten(0, (groups, -1))], 1
        )
        outputs = torch.tensor([o for *_, o in bucket.hidden]).expand(groups, -1)
        at = Pairs(x.flatten(0, 1), torch.cat([at.output.unflatten(0, (groups, seen)), outputs], 1).flatten())
    cross = model.covariance(theta, at, regression.support, layout)
    if size == 1:
        prior = model.variance(theta, at, layout).expand(*cross.shape[:-2], -1)[..., None, None]
    else:
        prior = _by_group(model.covariance(theta, at, at, layout), groups)

    product = partial(torch.einsum, "...ngs,...ngt->...gst")

    def seen_through(given: Conditional, cross: Tensor) -> tuple[Tensor, Tensor]:
        mean = (model.mean(theta, at, layout) + given.mean(cross)).reshape(-1, groups, size)
        return mean, given.whiten(cross).unflatten(-1, (groups, size))

    def moments(given: Conditional, cross: Tensor) -> tuple[Tensor, Tensor]:
        mean, white = seen_through(given, cross)
        return mean, prior - product(white, white)

    mean, cov = moments(solved, cross)
    settled_mean, settled_cov = mean, cov
    told_mean, between, told = mean, cov, cov  # of what the sites are of, and of the functions with it
    if of_pairs is not None:
        # Sites in the sums are of what the pairs tell of a function, g: Cov[g, .] = phi' phi for all but the pairs.
        spans = [*(observed.pieces[k].where.shape[1] for k in bucket.pieces), *(1 for _ in bucket.hidden)]
        rows = [*bucket.rows, *(r for r, *_ in bucket.hidden)]
        old = held[bucket.index[:, rows]].repeat_interleave(torch.tensor(spans), 1)
        chol, phi = of_pairs
        count = chol.shape[-1]
        reach = torch.linalg.solve_triangular(chol, cross[..., :count].mT, upper=False)
        near = torch.cat([cross[..., :count], reach.mT @ phi], -1)
        of_sites = torch.where(old.flatten().unsqueeze(-1), near, cross)
        features = reach.unflatten(-1, (groups, size))
        among = product(features, features)
        of_old, any_old = old.unsqueeze(-2), old.unsqueeze(-1) | old.unsqueeze(-2)
        both = old.unsqueeze(-1) & of_old
        white = seen_through(solved, cross)[1]
        told_mean, told_white = seen_through(solved, of_sites)
        between = torch.where(of_old, among, prior) - product(white, told_white)
        told = torch.where(any_old, among, prior) - product(told_white, told_white)
        if first is not None:  # sites of condensed rows were settled before the later rows came
            first_mean, first_cov = moments(first, cross[..., : first.alpha.shape[-1]])
            settled_mean, settled_cov = torch.where(old, first_mean, mean), torch.where(both, first_cov, cov)
    sites, natural = torch.zeros_like(cov), torch.zeros_like(mean)
    for piece, own in _taken(observed, bucket):
        p = observed.parameters_of(theta, piece.task)
        if piece.law.exact:
            weight = (1 / piece.law.noise_variance(piece.rows, p)).expand(len(mean), groups)  # type: ignore[attr-defined]
            sites[..., own, own] = weight[..., None, None]
            natural[..., own] = (weight * piece.law.standardised(piece.rows, p)[0]).unsqueeze(-1)
        else:
            with torch.no_grad():
                m, v = settled_mean[..., own], settled_cov[..., own, own]
                site = step_from(m, piece.law.expect(piece.rows, p)(m, v))
            sites[..., own, own], natural[..., own] = site.precision, site.natural
    # A site that is not quite the one in T may tell more than T holds: it is taken out as far as something is left.
    root = torch.linalg.cholesky_ex(sites[..., :seen, :seen])[0]
    inside = root.mT @ told[..., :seen, :seen] @ root
    most = inside[..., 0, 0] if seen == 1 else torch.linalg.eigvalsh(inside)[..., -1]
    share = (MOST / most.clamp_min(MOST))[..., None, None]
    sites, natural = share * sites, share.squeeze(-1) * natural
    gain = between @ torch.linalg.inv(torch.eye(size, dtype=cov.dtype) - sites @ told)
    centre = mean + (gain @ ((sites @ told_mean.unsqueeze(-1)).squeeze(-1) - natural).unsqueeze(-1)).squeeze(-1)
    rest = cov + gain @ sites @ between.mT
    return centre, 0.5 * (rest + rest.mT), None


def _rows(
    observed: Problem, draws: slice, bucket: _Bucket, mean: Tensor, cov: Tensor, joint: Tensor | None
) -> Iterator[LeftOut]:
    """The rows of the groups of a bucket, one after another."""
    start, spans, functions = 0, dict[int, list[int]](), dict[int, list[int]]()
    for k, r in zip(bucket.pieces, bucket.rows, strict=True):
        piece = observed.pieces[k]
        spans.setdefault(r, []).extend(range(start, start + piece.where.shape[1]))
        functions.setdefault(r, []).extend(piece.functions)
        start += piece.where.shape[1]
    for r, i, _ in bucket.hidden:
        spans[r].append(start)
        functions[r].append(i)
        start += 1
    for r, span in spans.items():
        task = observed.pieces[bucket.pieces[bucket.rows.index(r)]].task
        own = torch.tensor(span)
        yield LeftOut(
            draws, task, functions[r], bucket.index[:, r], bucket.groups, mean[..., own],
            cov[..., own[:, None], own], joint,
        )  # fmt: skip
