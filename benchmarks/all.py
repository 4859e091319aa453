"""Every benchmark, one after the other: what `make bench` runs."""

from __future__ import annotations

import subprocess
import sys

if __name__ == "__main__":
    for name in ("toys", "fit_speed", "reference"):
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
