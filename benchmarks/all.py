"""Every benchmark, one after the other: what `make bench` runs."""

from __future__ import annotations

import subprocess
import sys

ALONE = (
    "toys",
    "curved_links",
    "fit_speed",
    "reference",
    "observations",
    "colour",
    "negative_transfer",
    "scale",
    "suggest_speed",
    "trust_speed",
)
ON_PUBLIC_SETS = (  # read from $BAYESTL_DATA, or downloaded
    "censored", "plain_inputs", "case_studies.run", "case_studies.derived", "case_studies.pages", "shared_materials",
    "known_materials", "campaigns",
    *(f"matbench --sources {kind}{forests}" for kind in ("none", "unpaired", "paired") for forests in ("", " --no-forests")),
)  # fmt: skip

if __name__ == "__main__":
    for name in (*ALONE, *ON_PUBLIC_SETS):
        print(f"== {name}", flush=True)
        module, *options = name.split()
        subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *options], check=True)
