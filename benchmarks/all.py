"""Every benchmark, one after the other: what `make bench` runs."""

from __future__ import annotations

import os
import subprocess
import sys

if __name__ == "__main__":
    for name in ("toys", "fit_speed", "reference", "observations", "colour", "negative_transfer", "scale", "censored"):
        if name == "censored" and "BAYESTL_DATA" not in os.environ:
            print("== censored: skipped, it reads the data in $BAYESTL_DATA", flush=True)
            continue
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
