"""Check the jaxtyping annotations of the numerical code at run time, in the tests and the doctests alike.

The border (tables, posterior) is left out: it must refuse bad arguments itself, and that is tested.
"""

from jaxtyping import install_import_hook

install_import_hook(
    ["bayestl.gaussian", "bayestl.inference.mode", "bayestl.inference.variational", "bayestl.inference.coordinates",
     "bayestl.models.base", "bayestl.scaling"],
    "beartype.beartype",
)  # fmt: skip
