"""The sites of a guide: what they are, and how each is differentiated."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpyro.distributions as dist
from jax.extend.core import get_opaque_trace_state
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from vi.errors import TargetError
from vi.program.axis import Plate
from vi.program.draws import ACCEPT_REJECT, BERNOULLI, has_cdf, is_one_hot
from vi.program.estimators import (
    ESTIMATED,
    PATHWISE,
    SCORED,
    AcceptReject,
    Enumerate,
    Estimator,
    Implicit,
    MeasureValued,
    Pathwise,
    Relaxed,
    RunningScore,
    Score,
    SiteEstimator,
)
from vi.program.measures import MEASURE_VALUED
from vi.program.requirements import check_estimator_options
from vi.program.rules import is_masked, noise_size, support_size, unwrap

SMALL = 64  # joint values up to which a discrete site is enumerated by default


@dataclasses.dataclass(frozen=True)
class Site:
    """A random site of a guide.

    Attributes:
      name: of the site.
      kind: name of its distribution.
      shape: of its value.
      plates: the plates it is in, by dimension.
      reparameterised: whether its draws are differentiable.
      support: number of joint values, if they can be listed.
      noise: number of standard normals a draw is made of, if it is.
      inside: whether it is inside numpyro's scan or cond, and thus drawn there.
      fixed: whether it is a point (Delta) and follows from other values.
      masked: whether some of its rows are masked.
      estimator: how it is differentiated.
      chosen: whether by the user.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    plates: dict[str, int]
    reparameterised: bool
    support: int | None
    noise: int | None
    inside: bool
    fixed: bool
    masked: bool
    estimator: SiteEstimator
    chosen: bool


@dataclasses.dataclass(frozen=True)
class Structure:
    """The sites of a guide, the plates of guide and model, and how rows of plates are taken.

    ``keyed``: whether the guide spends keys beside the flat noise; ``restless``: whether it draws
    more than its sites (``numpyro.prng_key``); ``branches``: whether guide or model has numpyro's
    ``cond``.
    """

    sites: dict[str, Site]
    plates: dict[str, Plate]
    rows: dict[str, Callable]
    keyed: bool
    restless: bool
    branches: bool

    @property
    def random(self) -> dict[str, Site]:
        """Sites that are not points."""
        return {name: site for name, site in self.sites.items() if not site.fixed}

    @property
    def noise(self) -> int:
        """Number of standard normals in one draw of the guide."""
        return sum(site.noise or 0 for site in self.sites.values() if uses_noise(site))

    @property
    def common(self) -> frozenset[str]:
        """Plates that every random site is in; where all are points, every site."""
        sites = self.random or self.sites
        sets = [frozenset(site.plates) for site in sites.values()]
        return frozenset.intersection(*sets) if sets else frozenset()


def uses_noise(site: Site) -> bool:
    """Whether a site is drawn from its slice of the flat noise."""
    return site.noise is not None and isinstance(site.estimator, PATHWISE) and not site.inside


class Guard(Messenger):
    """Refuses sample statements inside JAX transformations, which would freeze or leak draws."""

    def __init__(self, fn: Callable | None = None):
        self.here = get_opaque_trace_state()
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        """Compare the trace a statement is reached in with that of the whole program."""
        kind = msg["type"]
        if kind in ("sample", "plate", "control_flow") and get_opaque_trace_state() != self.here:
            name = msg.get("name", "scan or cond")
            raise TargetError(
                f"objective: expected sample statements outside of JAX transformations; site "
                f"'{name}' is inside jax.lax.scan, jax.lax.cond, jax.vmap, jax.jit, "
                "jax.checkpoint or the like, where its draws would be made once, at trace time. "
                "Use numpyro.plate, numpyro.contrib.control_flow.scan or cond, or move the "
                "statement out."
            )


class Discover(Guard):
    """Collects plates, and for a guide its sites, as a program runs."""

    def __init__(self, estimator: Estimator | None, params: Collection[str], *, sites: bool):
        super().__init__()
        self.estimator, self.params, self.wanted = estimator, params, sites
        self.sites: dict[str, Site] = {}
        self.plates: dict[str, Plate] = {}
        self.rows: dict[str, Callable] = {}
        self.keyed = self.restless = self.branches = False

    def process_message(self, msg: dict) -> None:
        """Note what is drawn where, and leave the drawing to others."""
        super().process_message(msg)
        self.restless |= msg["type"] == "prng_key"
        self.keyed |= msg["type"] in ("control_flow", "prng_key")
        self.branches |= msg["type"] == "control_flow" and msg["fn"] is cond_wrapper
        if msg["type"] == "plate":
            if msg["name"] in self.params:
                raise TargetError(
                    f"objective: expected different names of parameters and plates, since "
                    f"NumPyro would take the values of one for the rows of the other; "
                    f"'{msg['name']}' is both. Rename one."
                )
            size, rows = msg["args"][:2]
            rows = size if rows is None else rows
            if rows != size and msg["value"] is None:
                self.rows[msg["name"]] = functools.partial(msg["fn"], size, rows)
            self.plates[msg["name"]] = Plate(0, size, rows)
        if msg["type"] != "sample":
            return
        self.restless |= ESTIMATED in msg["infer"]
        for frame in msg["cond_indep_stack"]:
            known = self.plates.get(frame.name, Plate(0, frame.size, frame.size))
            self.plates[frame.name] = known._replace(dim=frame.dim, rows=frame.size)
        if self.wanted and not msg["is_observed"]:
            self.sites[msg["name"]] = self._site(msg)

    def _site(self, msg: dict) -> Site:
        fn, base = msg["fn"], unwrap(msg["fn"])
        plates = {frame.name: frame.dim for frame in msg["cond_indep_stack"]}
        inside = msg["value"] is not None
        if inside and not msg.get("_control_flow_done"):
            raise TargetError(
                f"objective: expected a guide that draws its sites; the value of guide site "
                f"'{msg['name']}' is given, by numpyro.handlers.substitute or the like, though it "
                "counts as drawn. Write it as dist.Delta, or put numpyro.handlers.condition around "
                "the model and leave the site out of the guide."
            )
        facts = {
            "name": msg["name"],
            "kind": type(base).__name__,
            "shape": tuple(fn.shape()),
            "plates": plates,
            "reparameterised": bool(fn.has_rsample),
            "support": None if inside else support_size(fn, plates),
            "noise": noise_size(fn),
            "inside": inside,
            "fixed": isinstance(base, dist.Delta),
            "masked": is_masked(fn),
        }
        chosen, mine = choose(facts, msg["infer"].get("estimator"), self.estimator)
        site = Site(**facts, estimator=chosen, chosen=mine)
        if not site.fixed:
            check(site, base)
        return site


def choose(
    facts: dict[str, Any], own: SiteEstimator | None, given: Estimator | None
) -> tuple[SiteEstimator, bool]:
    """The estimator of a site: by name, by its own annotation, by the program's, or by default."""
    if isinstance(given, dict):
        if facts["name"] in given:
            return given[facts["name"]], True
        given = given.get("*")
    if isinstance(own, RunningScore):
        raise TargetError(
            f"objective: expected RunningScore, which has a state, to be given to the objective; "
            f"site '{facts['name']}' has it in its infer. Write "
            f"estimator={{'{facts['name']}': vi.RunningScore()}} in the objective."
        )
    chosen = own if own is not None else given
    if chosen is not None:
        return chosen, True
    if facts["reparameterised"]:
        return Pathwise(), False
    if facts["support"] is not None and facts["support"] <= SMALL:
        return Enumerate(), False
    return Score(), False


def check(site: Site, base: Any) -> None:
    """Raise a `TargetError` where an estimator would be biased or has no rule."""
    how = site.estimator
    check_estimator_options(f"objective: guide site '{site.name}': {type(how).__name__}", how)
    if _allows(type(how), site, base):
        return
    kinds = (*PATHWISE, *SCORED, Enumerate, MeasureValued, AcceptReject, Implicit, Relaxed)
    valid = [kind.__name__ for kind in kinds if _allows(kind, site, base)]
    if isinstance(how, PATHWISE):
        raise TargetError(
            f"objective: expected sites with pathwise gradients; guide site '{site.name}' "
            f"({site.kind}) has none, and {type(how).__name__} would be biased. Valid here: "
            f"{valid}; or numpyro.infer.TraceGraph_ELBO as the loss."
        )
    where = " inside numpyro's scan or cond" if site.inside else ""
    where += " under a mask" if site.masked else ""
    raise TargetError(
        f"objective: expected for guide site '{site.name}' ({site.kind}){where} one of the "
        f"estimators {valid}; got {how!r}. Choose one of these for the site, and give an instance, "
        "such as vi.Score()."
    )


def _allows(kind: type, site: Site, base: Any) -> bool:
    """Whether a site allows a kind of estimator."""
    if kind in PATHWISE:
        return site.reparameterised
    if kind in SCORED:
        return not (site.inside and site.reparameterised)
    if site.inside:
        return False
    if kind is Enumerate:
        return site.support is not None
    if kind is MeasureValued:
        return isinstance(base, MEASURE_VALUED) and not site.masked
    if kind is AcceptReject:
        given = getattr(site.estimator, "transform", None) is not None
        return isinstance(base, ACCEPT_REJECT) or (given and _is_scalar(base))
    if kind is Implicit:
        given = getattr(site.estimator, "cdf", None) is not None
        return has_cdf(base) or (given and _is_scalar(base))
    return kind is Relaxed and (isinstance(base, BERNOULLI) or is_one_hot(base))


def _is_scalar(base: Any) -> bool:
    return not base.event_shape and not base.support.is_discrete


def discover(
    guide: Callable,
    model: Callable,
    params: dict,
    args: tuple,
    kwargs: dict,
    estimator: Estimator | None,
) -> Structure:
    """Trace guide and model abstractly, once, to learn their sites and plates."""
    found: list[Discover] = []

    def run(params: dict) -> None:
        values: dict = {}
        for program, sites in ((guide, True), (model, False)):
            collector = Discover(estimator, params.keys(), sites=sites)
            found.append(collector)
            # The model runs at the guide's values: it may not be able to draw its own.
            given = substitute(seed(program, jax.random.key(0)), data={**params, **values})
            with collector:
                found_sites = trace(given).get_trace(*args, **kwargs)
            values = {name: found_sites[name]["value"] for name in collector.sites}

    jax.eval_shape(run, params)
    of_guide, of_model = found
    keyed = of_guide.keyed or any(
        not (site.fixed or uses_noise(site)) for site in of_guide.sites.values()
    )
    names = sorted(of_guide.sites)
    if isinstance(estimator, dict) and (unknown := sorted({*estimator} - {*names, "*"})):
        raise TargetError(
            f"objective: expected names of guide sites, or '*' for the rest, in estimator=; got "
            f"{unknown}. The guide has {names}."
        )
    return Structure(
        sites=of_guide.sites,
        plates={**of_model.plates, **of_guide.plates},
        rows={**of_model.rows, **of_guide.rows},
        keyed=keyed,
        restless=of_guide.restless,
        branches=of_model.branches or of_guide.branches,
    )
