import numpy as np
import pytest

import bayestl as btl
from bayestl import cli
from bayestl.datasets import ELEMENT_DESCRIPTORS, load_bulk_moduli


def test_bulk_moduli_are_what_they_are_said_to_be():
    table = load_bulk_moduli()
    assert len(table) == 71
    assert table["B_exp"].notna().sum() == 58
    assert table["B_wien2k"].notna().all()
    assert table[list(ELEMENT_DESCRIPTORS)].notna().all().all()
    assert table.loc["W", "B_exp"] == pytest.approx(310, rel=0.1)
    ratio = (table["B_exp"] / table["B_wien2k"]).dropna()
    assert 0.9 < ratio.median() < 1.2


@pytest.mark.slow
def test_the_demo_says_and_writes_what_it_promises(tmp_path, capsys):
    assert cli.main(["demo", "--folder", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for word in (
        "single task",
        "multi-task",
        "difference",
        "latent task",
        "RMSE (GPa)",
        "NLPD",
        "90 % coverage",
        "What the",
    ):
        assert word in said
    picture, saved = tmp_path / "bulk-moduli.png", tmp_path / "bulk-moduli.nc"
    assert picture.stat().st_size > 10_000
    assert str(picture) in said
    posterior = btl.load(saved)
    assert np.isfinite(posterior.predict(load_bulk_moduli().head(3), task="B_exp")["mean"]).all()
