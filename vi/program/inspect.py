"""Where a gradient would miss a term: moving supports, and branches on reparameterised values."""

from collections.abc import Callable
from typing import Any

import jax
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.ops.provenance import eval_provenance
from numpyro.primitives import Messenger

from vi.errors import TargetError
from vi.program.estimators import MOVED, SCORED
from vi.program.sites import Structure

Program = Callable[[dict[str, Any], dict], Any]  # (values of sites, parameters) -> log densities


class _Look(Messenger):
    """Notes the bounds of the supports of some sites, and the predicates of numpyro's cond."""

    def __init__(self, sites: set[str]):
        super().__init__()
        self.sites = sites
        self.supports: dict[str, list] = {}
        self.predicates: list[Any] = []

    def process_message(self, msg: dict) -> None:
        """Look, and change nothing."""
        if msg["type"] == "sample" and msg["name"] in self.sites:
            self.supports[msg["name"]] = jax.tree.leaves(msg["fn"].support)
        if msg["type"] == "control_flow" and msg["fn"] is cond_wrapper:
            self.predicates.append(msg["args"][0])


def inspect(
    structure: Structure,
    guide: Program,
    model: Program,
    values: dict[str, Any],
    params: dict,
) -> None:
    """Raise a `TargetError` if a law or a path depends on parameters through a discontinuity."""
    sites = structure.random
    scored = {name for name, site in sites.items() if isinstance(site.estimator, SCORED)}
    if not scored and not structure.branches:
        return
    path = {n: x for n, x in values.items() if isinstance(sites[n].estimator, MOVED)}
    rest = {n: x for n, x in values.items() if n not in path}

    def look(program: Program) -> Callable:
        def run(params: dict, path: dict, rest: dict) -> tuple[dict, list]:
            looking = _Look(scored)
            with looking:
                program({**path, **rest}, params)
            return looking.supports, looking.predicates

        return run

    supports, predicates = eval_provenance(look(guide), params=params, path=path, rest=rest)
    predicates += eval_provenance(look(model), params=params, path=path, rest=rest)[1]
    for name, bounds in supports.items():
        if any(bounds):
            raise TargetError(
                f"objective: expected a support that does not move with Score; that of guide site "
                f"{name!r} ({sites[name].kind}) depends on parameters or on other sites, and the "
                "gradient would miss the term of its edges. Use vi.Pathwise() if the site is "
                "reparameterised, or a distribution of fixed support."
            )
    if any("path" in found for found in predicates):
        raise TargetError(
            "objective: expected branches of numpyro's cond that do not depend on reparameterised "
            f"sites; one does, on some of {sorted(path)}, and pathwise gradients would miss the "
            "jump. Use vi.Score() or vi.MeasureValued() for the site, or a smooth mixture of the "
            "branches."
        )
