"""Check the jaxtyping annotations of the numerical code at run time, in the tests and the doctests alike.

The border (tables, posterior) is left out: it must refuse bad arguments itself, and that is tested.
"""

from importlib.util import find_spec

from jaxtyping import install_import_hook

# BoTorch is an extra that CI's tests do without.
collect_ignore = [] if find_spec("botorch") else ["bayestl/botorch.py"]

install_import_hook(
    ["bayestl.gaussian", "bayestl.inference.mode", "bayestl.inference.variational", "bayestl.inference.coordinates",
     "bayestl.models.base", "bayestl.scaling"],
    "beartype.beartype",
)  # fmt: skip
