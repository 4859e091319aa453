"""Real tables: a few that ride in on ordinary dependencies, the others fetched once from public repositories.

Each loader returns a tidy table and says in its notes where the numbers come from, under which licence, and what is wrong
with them. Nothing is redistributed here: files are fetched from where they are published, at one commit, and their
checksums are compared. To work offline, name a folder that holds copies as ``<name>/<file>`` in the environment variable
``BAYESTL_DATA``.
"""

from bayestl.datasets.gaps import (
    load_aflow_gaps,
    load_borlido_gaps,
    load_experimental_gaps,
    load_hse_pbe_gaps,
    load_kingsbury_gaps,
    load_materials_project_gaps,
    load_megnet_gaps,
    load_megnet_pairs,
)
from bayestl.datasets.installed import (
    COLOURS,
    ELEMENT_DESCRIPTORS,
    describe_compositions,
    load_bulk_moduli,
    load_gaps_and_colours,
)
from bayestl.datasets.mechanics import load_m2ax, load_mpea, load_steel_strength
from bayestl.datasets.molecules import load_cofs, load_freesolv
from bayestl.datasets.reactions import load_buchwald_hartwig, load_direct_arylation, load_opv, load_suzuki
from bayestl.datasets.remote import fetch
from bayestl.datasets.solids import (
    JARVIS,
    load_formation_enthalpies,
    load_jarvis,
    load_kingsbury_enthalpies,
)
from bayestl.datasets.surfaces import (
    CATMAP_STUDIES,
    load_catapp,
    load_catmap_energies,
    load_ethanol_activities,
    load_ethanol_reforming,
    load_no_steps,
)

__all__ = [
    "CATMAP_STUDIES",
    "COLOURS",
    "ELEMENT_DESCRIPTORS",
    "JARVIS",
    "describe_compositions",
    "fetch",
    "load_aflow_gaps",
    "load_borlido_gaps",
    "load_buchwald_hartwig",
    "load_bulk_moduli",
    "load_catapp",
    "load_catmap_energies",
    "load_cofs",
    "load_direct_arylation",
    "load_ethanol_activities",
    "load_ethanol_reforming",
    "load_experimental_gaps",
    "load_formation_enthalpies",
    "load_freesolv",
    "load_gaps_and_colours",
    "load_hse_pbe_gaps",
    "load_jarvis",
    "load_kingsbury_enthalpies",
    "load_kingsbury_gaps",
    "load_m2ax",
    "load_materials_project_gaps",
    "load_megnet_gaps",
    "load_megnet_pairs",
    "load_mpea",
    "load_no_steps",
    "load_opv",
    "load_steel_strength",
    "load_suzuki",
]
