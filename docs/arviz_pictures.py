"""Make the pictures of docs/arviz.md: python docs/arviz_pictures.py."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import bayestl as btl
import bayestl.plots
from bayestl.datasets import ELEMENT_DESCRIPTORS, load_bulk_moduli

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az

HERE = Path(__file__).parent / "pictures"
NEW = not az.__version__.startswith("0.")


def save(name: str, result: object) -> None:
    """Write the figure that ArviZ drew, whatever it returned."""
    if NEW and hasattr(result, "savefig"):
        result.savefig(HERE / f"{name}.png", dpi=80)  # type: ignore[attr-defined]
    else:
        plt.gcf().savefig(HERE / f"{name}.png", dpi=80, bbox_inches="tight")
    plt.close("all")


def main() -> None:
    """Fit two models to the bulk moduli and let ArviZ judge them on the measured ones."""
    HERE.mkdir(exist_ok=True)
    table = load_bulk_moduli()
    table["B_exp"] = table["B_exp"].iloc[::3]
    data = btl.TaskData.from_wide(
        table, inputs=list(ELEMENT_DESCRIPTORS), tasks=["B_wien2k", "B_exp"], units={"B_wien2k": "GPa", "B_exp": "GPa"}
    )
    models = {"difference": btl.Difference.chain("B_wien2k", "B_exp"), "single": btl.SingleTask()}
    posteriors = {name: btl.fit(model, data, seed=0) for name, model in models.items()}
    handed = {name: posterior.to_arviz(task="B_exp") for name, posterior in posteriors.items()}
    one = handed["difference"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        print(az.summary(one, var_names=["rho", "noise", "amplitude"]))
        loo = az.loo(one, pointwise=True)
        print(loo)
        table = az.compare(handed)
        print(table)
        save("compare", az.plot_compare(table))
        save("khat", az.plot_khat(loo))
        save("forest", az.plot_forest(one, var_names=["rho", "noise", "amplitude"]))
        save("pair", az.plot_pair(one, var_names=["rho", "noise"]))
        save("trace", az.plot_trace(one, var_names=["rho", "noise"]))
        save("ppc", az.plot_ppc_dist(one) if NEW else az.plot_ppc(one, random_seed=0))
    btl.plots.plot_pit(btl.leave_out(posteriors["difference"], task="B_exp"))
    plt.gcf().savefig(HERE / "loo_pit.png", dpi=80)
    plt.close("all")


if __name__ == "__main__":
    main()
