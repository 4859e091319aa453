"""What a campaign suggests next: suggestions that can be paid for, and that are on offer still."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bayestl.decide import plain
from bayestl.decide.goals import OF_TARGET
from bayestl.decide.ledger import BARRED, Event, Ledger
from bayestl.decide.pool import OWN, NothingOfferedError
from bayestl.decide.suggest import suggest
from bayestl.posterior import Posterior


def choose(ledger: Ledger, posterior: Callable[[], Posterior], batch: int) -> tuple[list[Event], str]:
    """Choose up to `batch` measurements, and say why they are not more."""
    chosen: list[Event] = []
    while len(chosen) < batch:
        left = ledger.left - sum(own["cost"] for own in chosen)
        offers = _offers(ledger, left, chosen)
        if not offers:
            return chosen, _why_not(ledger, left, chosen)
        more = _some(ledger, posterior(), batch - len(chosen), left, offers, chosen)
        if not more:
            return chosen, _why_not(ledger, left, chosen)
        chosen += more
    return chosen, ""


def _offers(ledger: Ledger, left: float, chosen: Sequence[Event]) -> dict[str, np.ndarray]:
    offers = ledger.offers(left, chosen)
    if ledger.settings["score"] in OF_TARGET:
        return {name: own for name, own in offers.items() if name == ledger.settings["target"]}
    return offers


def _some(
    ledger: Ledger, posterior: Posterior, batch: int, left: float, offers: dict[str, np.ndarray], chosen: list[Event]
) -> list[Event]:
    """Choose at least one affordable measurement."""
    settings = ledger.settings
    pending = [{**own["inputs"], "task": own["task"]} for own in (*ledger.pending, *chosen)]
    avoid = [{**own["inputs"], "task": own["task"]} for own in ledger.failed] if ledger.bounded else []
    if not settings["replicates"] and not ledger.bounded:
        batch = min(batch, ledger.distinct(offers))

    def affordable(candidates: Any, costs: dict[str, Any]) -> list[Event]:
        table = suggest(
            posterior, candidates, target=settings["target"], goal=settings["goal"], score=settings["score"], costs=costs,
            batch=batch, pending=pd.DataFrame(pending) if pending else None, constraints=ledger.constraints,
            avoid=pd.DataFrame(avoid) if avoid else None, region=ledger.region, replicates=settings["replicates"],
            seed=settings["seed"] + ledger.asks,
        )  # fmt: skip
        fits = (table["cost"] < BARRED) & ledger.affords(table["cost"].cumsum(), left)
        return [_event(ledger, line) for line in table[fits.cumprod().astype(bool)].to_dict("records")]

    costs = {name: float(own[0]) if ledger.bounded else own for name, own in offers.items()}
    try:
        found = affordable(ledger.candidates, costs)
    except NothingOfferedError:
        return []
    if found or ledger.bounded:
        return found
    # All that is on offer is so hopeless that even what is not looks better: look at what is, alone.
    tables = {name: ledger.table(name) for name in offers}
    kept = {name: own.iloc[np.flatnonzero(offers[name] < BARRED)] for name, own in tables.items() if own is not None}
    return affordable(kept, {name: own[own < BARRED] for name, own in offers.items()})


def _event(ledger: Ledger, line: dict[Any, Any]) -> Event:
    """Write a suggestion down, with the limits and exposures that its candidate comes with."""
    inputs = {str(name): plain.plain(own, str(name)) for name, own in line.items() if name not in OWN}
    table = None if ledger.bounded else ledger.table(line["task"])
    likelihood = ledger.data.tasks[ledger.data.index_of(line["task"])].likelihood
    for name in likelihood.columns():
        if name is not None and table is not None and name in table:
            inputs[name] = plain.plain(table.loc[line["row"], name], name)
    return {name: plain.plain(line[name], name) for name in OWN} | {"inputs": inputs}


def _why_not(ledger: Ledger, left: float, chosen: Sequence[Event]) -> str:
    free = _offers(ledger, math.inf, chosen)
    if not free or math.isinf(left):
        return "all candidates were measured, are pending, or failed."
    least = min(float(own.min()) for own in free.values())
    committed = ledger.committed + sum(own["cost"] for own in chosen)
    running = f" ({committed:g} more are committed)" if committed else ""
    if (over := -left - committed) > 1e-9 * ledger.settings["budget"]:
        return f"the budget is overspent by {over:g}{running}."
    return f"of the budget {max(left, 0.0):g} are left{running}, and the cheapest measurement on offer costs {least:g}."
