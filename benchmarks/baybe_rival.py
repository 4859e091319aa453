"""BayBE's transfer learning on the direct arylations, in an environment of its own; called by `benchmarks.campaigns`.

python -m benchmarks.baybe_rival STARTS.json: yields to start from, and the table to ask; prints the yields in the order measured.
It knows the same rows as the others at the start, in the same form: categories and the concentration.
"""

import json
import sys
import warnings

import pandas as pd

INPUTS = ["base", "ligand", "solvent", "concentration"]


def search(known: pd.DataFrame, table: pd.DataFrame, target: str, most: int, seed: int) -> list[float]:
    """Yields of the target in the order in which BayBE asked for them, to the best one."""
    from baybe import Campaign
    from baybe.objectives import SingleTargetObjective
    from baybe.parameters import CategoricalParameter, NumericalDiscreteParameter, TaskParameter
    from baybe.searchspace import SearchSpace
    from baybe.targets import NumericalTarget
    from baybe.utils.random import set_random_seed

    set_random_seed(seed)
    parameters = [CategoricalParameter(name, sorted(table[name].unique()), encoding="OHE") for name in INPUTS[:3]]
    parameters.append(NumericalDiscreteParameter("concentration", sorted(table["concentration"].unique())))
    parameters.append(TaskParameter("task", sorted(known["task"].unique()), active_values=[target]))
    objective = SingleTargetObjective(NumericalTarget("yield"))
    space = SearchSpace.from_product(parameters)
    campaign = Campaign(space, objective, allow_recommending_already_measured=False)
    campaign.add_measurements(known)
    found: list[float] = []
    while len(found) < most and (not found or max(found) < table["yield"].max()):
        asked = campaign.recommend(1)
        measured = asked.merge(table, on=[*INPUTS, "task"])[[*INPUTS, "task", "yield"]]
        campaign.add_measurements(measured)
        found += measured["yield"].tolist()
    return found


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    with open(sys.argv[1]) as file:
        given = json.load(file)
    tables = pd.DataFrame(given["known"]), pd.DataFrame(given["table"])
    print(json.dumps(search(*tables, given["target"], given["most"], given["seed"])))
