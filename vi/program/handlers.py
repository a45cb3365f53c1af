"""How a guide is run: each site is drawn, or held, as its estimator says."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError
from vi.program.draws import accept_reject, draw_implicit, relaxed
from vi.program.estimators import (
    PATHWISE,
    SCORED,
    AcceptReject,
    Enumerate,
    Implicit,
    MeasureValued,
    Relaxed,
    RunningScore,
)
from vi.program.measures import enumerated, measure_valued
from vi.program.rules import from_noise, log_prob_rows, support_value, unmasked
from vi.program.sites import Guard, Site, Structure, uses_noise

stop = jax.lax.stop_gradient


class Drawing(Guard):
    """Draws the sites of one row: one particle, one joint value of the enumerated sites.

    Its attributes fill as the guide runs: ``log_weights`` of enumerated values, ``scores``
    (log densities of sites whose law is differentiated by its score), ``alternatives`` (values
    and weights), ``intermediates`` of transforms, and ``notes`` that are not arrays or are needed
    once (how scores are centred).
    """

    def __init__(
        self,
        guide: Callable,
        structure: Structure,
        rows: dict[str, Array],
        *,
        arguments: tuple[tuple, dict],
        weighted: bool,
        detached: bool,
        num_particles: int,
        noise: Array | None,
        key: Array | None,
        branch: Array | None,
        flags: dict[str, Array],
        held: dict[str, Array],
    ):
        super().__init__(guide)
        self.structure, self.rows, self.arguments = structure, rows, arguments
        self.weighted, self.detached, self.num_particles = weighted, detached, num_particles
        self.noise, self.key, self.branch, self.flags, self.held = noise, key, branch, flags, held
        self.order = list(structure.sites)
        self.log_weights: dict[str, Array] = {}
        self.scores: dict[str, Array] = {}
        self.alternatives: dict[str, tuple[Array, Array]] = {}
        self.intermediates: dict[str, list] = {}
        self.notes: dict[str, tuple[Any, float, bool]] = {}
        self.used = 0

    def process_message(self, msg: dict) -> None:
        """Give a plate its rows and a site its value."""
        super().process_message(msg)
        name = msg.get("name", "")
        if msg["type"] == "plate" and name in self.rows:
            msg["value"] = self.rows[name]
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        site, fn = self.structure.sites[name], msg["fn"]
        if site.fixed:
            return
        if site.inside:
            self._after(site, msg)
            return
        value = self._draw(site, fn)
        if name in self.flags:
            value = jnp.where(self.flags[name], self.held[name], value)
            self.intermediates.pop(name, None)
        msg["value"], msg["intermediates"] = value, self.intermediates.get(name, [])

    def _key(self, site: Site) -> Array:
        return jax.random.fold_in(self.key, self.order.index(site.name))

    def _draw(self, site: Site, fn: Any) -> Array:
        how = site.estimator
        if isinstance(how, PATHWISE):
            if uses_noise(site):
                size = site.noise or 0
                part = self.noise[self.used : self.used + size]  # type: ignore[index]
                self.used += size
                value, inside = from_noise(fn, part)
            else:
                value, inside = fn.sample_with_intermediates(self._key(site))
            if self.detached:
                return stop(value)
            if inside:
                self.intermediates[site.name] = inside
            return value
        fn = unmasked(fn) if site.masked else fn  # it is drawn all the same
        if isinstance(how, Enumerate) and self.weighted:
            sizes = branch_sizes(self.structure)
            place = list(sizes).index(site.name)
            value = support_value(fn, site.plates, self.branch[place])  # type: ignore[index]
            self.log_weights[site.name] = log_prob_rows(fn, site.plates, value)
            return value
        key = self._key(site)
        if isinstance(how, (Relaxed, Implicit)):
            value = (relaxed if isinstance(how, Relaxed) else draw_implicit)(fn, how, key)
            return stop(value) if self.detached else value
        if isinstance(how, AcceptReject):
            value, log_pi = accept_reject(fn, how, key)
            log_pi = log_pi.sum(tuple(range(len(fn.batch_shape), log_pi.ndim)))
            if self.detached:
                return stop(value)
            baseline = "leave_one_out" if self.num_particles > 1 else "none"
            self._score(site, log_pi, baseline, held=False)
            return value
        value = stop(fn.sample(key))
        if self.detached:
            return value
        if isinstance(how, SCORED):
            self._score(site, fn.log_prob(value), self._baseline(site, how))
        elif isinstance(how, Enumerate):
            self.alternatives[site.name] = enumerated(fn, site.plates, site.support or 0)
        elif isinstance(how, MeasureValued):
            other = jax.random.fold_in(key, 1)
            self.alternatives[site.name] = measure_valued(fn, site.plates, value, other)
        return value

    def _after(self, site: Site, msg: dict) -> None:
        """A site inside scan or cond has been drawn there; its draws are differentiable or not."""
        if self.detached and site.reparameterised:
            raise TargetError(
                f"objective: expected detached draws of sites outside of numpyro's scan and cond; "
                f"site '{site.name}' is inside. Use an objective that takes attached draws."
            )
        if isinstance(site.estimator, SCORED) and not self.detached:
            baseline = self._baseline(site, site.estimator)
            self._score(site, unmasked(msg["fn"]).log_prob(msg["value"]), baseline)

    def _score(self, site: Site, log_density: Array, baseline: Any, *, held: bool = True) -> None:
        plates = (self.structure.plates[name] for name in site.plates)
        scale = math.prod(plate.size / plate.rows for plate in plates)
        if not isinstance(baseline, str):
            baseline = jnp.asarray(baseline, log_density.dtype)
        self.scores[site.name] = log_density
        self.notes[site.name] = (baseline, scale, held)

    def _baseline(self, site: Site, how: Any) -> Any:
        if isinstance(how, RunningScore):
            plates = {dim: self.structure.plates[name] for name, dim in site.plates.items()}
            each = stop(how.mean) / math.prod(plate.size for plate in plates.values())
            dims = range(min(plates, default=0), 0)
            return jnp.broadcast_to(each, [plates[d].rows if d in plates else 1 for d in dims])
        if callable(how.baseline):
            args, kwargs = self.arguments
            return stop(how.baseline(*args, **kwargs))
        if how.baseline == "none":
            return "none"
        if self.num_particles > 1:
            return "leave_one_out"
        if site.chosen:
            raise TargetError(
                f"objective: expected num_particles >= 2 with Score(baseline='leave_one_out'), at "
                f"guide site '{site.name}', since the baseline is made of the other particles; got "
                "1. Take more particles, or vi.Score(baseline='none')."
            )
        return "none"


def branch_sizes(structure: Structure) -> dict[str, int]:
    """Number of joint values of each enumerated site."""
    return {
        name: site.support or 0
        for name, site in structure.random.items()
        if isinstance(site.estimator, Enumerate)
    }
