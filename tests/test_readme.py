import re
from pathlib import Path

import matplotlib
import pytest

HOME = Path(__file__).parent.parent


def blocks_of(page: str) -> list[str]:
    if not (HOME / page).exists():
        pytest.skip(f"installed without {page}")
    blocks = re.findall(r"```python\n(.*?)```", (HOME / page).read_text(), flags=re.DOTALL)
    assert blocks
    return blocks


def test_the_readme_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for block in blocks_of("README.md"):
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "moduli.nc").exists()
    assert "B_wien2k" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:The variational posterior of theta fits badly")
def test_the_guide_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """Its blocks are one session: each goes on where the last one ended."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    for block in blocks_of("docs/guide.md"):
        exec(compile(block, "docs/guide.md", "exec"), session)
    assert {path.name for path in tmp_path.iterdir()} >= {"hardness.nc", "best.nc", "hardness.jsonl"}
    assert "lab_b" in capsys.readouterr().out
