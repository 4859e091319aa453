"""Check the jaxtyping annotations of the numerical code at run time, in the tests and the doctests alike.

The border (tables, posterior) is left out: it must refuse bad arguments itself, and that is tested.
"""

import os
from importlib.util import find_spec

from jaxtyping import install_import_hook

# The tables of tests are small: a second thread gains nothing, and where the cores are shared it waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# BoTorch is an extra that CI's tests do without.
collect_ignore = [] if find_spec("botorch") else ["bayestl/botorch.py"]

install_import_hook(
    ["bayestl.gaussian", "bayestl.inference.mode", "bayestl.inference.variational", "bayestl.inference.coordinates",
     "bayestl.models.base", "bayestl.scaling"],
    "beartype.beartype",
)  # fmt: skip
