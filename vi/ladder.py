"""Richer families, rung by rung, until one fits or the budget is spent."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vi.clock import Clock
from vi.errors import TargetError
from vi.families import Mixture, mixture
from vi.gaussian.mixture import MixtureSolver, add_component
from vi.gaussian.solve import MAX_DENSE
from vi.loop import LoopOptions, iterate
from vi.options import FitOptions
from vi.plan import FLOW_PARTICLES, FLOW_STEPS
from vi.posterior import Posterior
from vi.posterior.cut import most_gradients
from vi.posterior.verdict import LIMIT, MISSED
from vi.provenance import provenance
from vi.rung import describe, fit_family, one_run, other_modes, report
from vi.status import Status
from vi.targets import Target
from vi.upstairs import FlowName, flow, is_flow, mixflow

COMPONENTS = (2, 4, 8)
FLOWS: tuple[FlowName, ...] = ("neural_spline", "realnvp")  # the second makes no walls
BUDGET = 500_000  # gradients
MIXTURES = 1 / 3  # of the budget, as far as mixtures may go
WORTH = 0.01  # nats a mixture must gain for a larger one to be tried
MOVED = 0.1  # standard deviations, or share of one, that weights may move a moment
FEWEST_STEPS = 1000  # of a flow, that are worth trying
FEWEST_MAPS, MOST_MAPS = 4, 32  # of a MixFlow
FEWEST_DRAWS = 1024  # to judge it by, each of which takes all maps
MAX_BENT = 32  # coordinates up to which a MixFlow starts from the flow
_FITS = f"k-hat is below {LIMIT} and importance weights move no moment by more than {MOVED:.0%}"


def climb(
    target: Target, key: Array, options: FitOptions, loop: LoopOptions, clock: Clock
) -> Posterior:
    """Fit a Gaussian, mixtures of 2, 4 and 8, a neural spline and a RealNVP flow, and a MixFlow.

    It stops at the first rung whose k-hat is below 0.7, whose importance weights move no mean by
    more than 0.1 standard deviations and no standard deviation by more than 10 %, that covers
    all modes found and does not end where the posterior goes on; or when the next rung would take
    more gradients than the budget has left. The best by ELBO is kept; a MixFlow, whose ELBO counts
    its momentum, also where it alone fits.
    When a mixture gains less than 0.01 nats, larger ones are passed over, as are those beyond a
    third of the budget.

    Args:
      target: the target.
      key: the key of the fit.
      options: those of `vi.fit`.
      loop: what happens between chunks; a checkpoint holds the first rung, the Gaussian.
      clock: of the whole fit.

    Returns:
      The best posterior; its ``rungs`` say what each rung came to.

    Raises:
      TargetError: if the model draws minibatches, for which there are no second-order mixtures.
    """
    if target.subsampled:
        raise TargetError(
            "vi.fit: expected family='auto' with a target that evaluates all rows; this model "
            "subsamples a plate. Name a family, or drop subsample_size."
        )
    ladder = _Ladder(target, key, options, loop, clock)
    flows = [functools.partial(ladder.flow, name) for name in FLOWS]
    for rung in (ladder.mixtures, *flows, ladder.mixflow):
        if ladder.why or target.dim > MAX_DENSE:
            break
        rung()
    return ladder.told()


class _Ladder:
    """Where a climb stands: the best so far, what was spent, and why it stopped, if it has."""

    def __init__(
        self, target: Target, key: Array, options: FitOptions, loop: LoopOptions, clock: Clock
    ):
        """Take the first rung, the Gaussian."""
        self.target, self.key, self.options, self.clock = target, key, options, clock
        self.budget = options.budget or BUDGET
        first = dataclasses.replace(options, family=None)
        self.best, state = fit_family(target, key, first, loop, clock)
        self.loop = LoopOptions(progress=loop.progress, callback=loop.callback)
        self.gaussian = self.best.q
        self.spent = self.best.cost["gradients"]
        self.rungs = [_rung(self.best, self.spent)]
        self.modes = other_modes(state) if self.best.diagnostics.missed > MISSED[1] else []
        self.why = _FITS if _fits(self.best) else ""
        if self.best.status.failed:
            self.why = "the search for the Gaussian broke down"

    def take(self, tried: Posterior, gradients: int, *, if_it_fits: bool = False) -> bool:
        """Write a rung down, and keep it if it is better; returns whether it is kept."""
        self.rungs.append(_rung(tried, gradients))
        self.spent += gradients
        kept = tried.elbo > self.best.elbo or (if_it_fits and _fits(tried))
        if kept:
            self.best = tried
        if tried.status in (Status.STOPPED, Status.INTERRUPTED):
            self.why = tried.status.message
        elif kept and _fits(tried):
            self.why = _FITS
        return kept

    def mixtures(self) -> None:
        """Mixtures by natural gradients, from the other modes where there are some."""
        q, found = self.gaussian, self.best.diagnostics
        if self.modes:
            q = mixture([q, *self.modes])
        for count in COMPONENTS:
            if isinstance(q, Mixture) and count < q.num_components:
                continue
            start = _grow(q, found, count)
            run = MixtureSolver(self.target, jax.random.fold_in(_typed(self.key), count), start)
            spent = self.spent + run.cost()
            most = self.budget * (1 if self.modes else MIXTURES)
            if spent > most or spent + most_gradients(spent) > self.budget:
                return
            before = self.best.elbo
            tried = self._mixed(run)
            self.take(tried, tried.cost["gradients"] - self.spent)
            q, found = tried.q, tried.diagnostics
            if self.why or not tried.elbo - before > WORTH:
                return

    def _mixed(self, run: MixtureSolver) -> Posterior:
        mixed, stopped = iterate(run, self.loop)
        return report(
            self.target,
            run.result(mixed),
            self.key,
            self.options,
            status=Status(mixed.status) if stopped == Status.RUNNING else stopped,
            notes=[],
            history=one_run(10 * np.arange(1, len(mixed.history) + 1), mixed.history),
            gradients=self.spent + mixed.gradients,
            clock=self.clock,
            others=self.modes,
        )

    def flow(self, name: FlowName) -> None:
        """A flow around the Gaussian, of fewer steps if the budget is small."""
        left = self.budget - self.spent
        steps = min(FLOW_STEPS, (left - most_gradients(left)) // FLOW_PARTICLES)
        if steps < FEWEST_STEPS:
            self.why = self._beyond()
            return
        bent = flow(name, self.target.dim, self.key).around(self.gaussian)
        self._family(bent, num_steps=steps)

    def mixflow(self) -> None:
        """A MixFlow of as many maps as the budget has gradients for, judging it included."""
        bent = is_flow(self.best.q) and self.target.dim <= MAX_BENT
        start = self.best.q if bent else self.gaussian
        left = self.budget - self.spent
        draws = self.options.num_draws or FEWEST_DRAWS
        judged = draws * (1 + len(self.modes))  # its own, and as many at each other mode
        count = min(MOST_MAPS, 1 + left // mixflow(2, start).gradients(judged))
        if count < FEWEST_MAPS:
            self.why = self._beyond()
            return
        self._family(mixflow(count, start), num_draws=draws, if_it_fits=True)

    def _family(
        self,
        family: Any,
        *,
        num_steps: int | None = None,
        num_draws: int | None = None,
        if_it_fits: bool = False,
    ) -> None:
        options = dataclasses.replace(
            self.options,
            family=family,
            num_steps=num_steps,
            num_draws=num_draws or self.options.num_draws,
            budget=None,
            init=None,
        )
        tried, _ = fit_family(self.target, self.key, options, self.loop, self.clock, self.modes)
        self.take(tried, tried.cost["gradients"], if_it_fits=if_it_fits)

    def _beyond(self) -> str:
        return f"the next rung would exceed the budget of {self.budget} gradients"

    def told(self) -> Posterior:
        """The best, with the whole way in its verdict."""
        best, why = self.best, self.why or "there is no richer rung"
        path = "; ".join(
            f"{r['family']}: ELBO {r['elbo']:.3f}, k-hat {r['khat']:.2f}" for r in self.rungs
        )
        text = f"{best.verdict.text} Tried: {path}. Stopped because {why.rstrip('.')}."
        cost = {**best.cost, "gradients": self.spent, **self.clock.read()}
        given = provenance(self.target, best.key, self.options.given())
        about = {**best.provenance, **given, "cost": cost}
        return dataclasses.replace(
            best,
            verdict=best.verdict._replace(text=text),
            cost=cost,
            rungs=tuple(self.rungs),
            provenance=about,
        )


def _rung(posterior: Posterior, gradients: int) -> dict[str, Any]:
    return {
        "family": describe(posterior.q),
        "elbo": posterior.elbo,
        "elbo_sem": posterior.elbo_sem,
        "khat": posterior.khat,
        "moved": _moved(posterior),
        "grade": posterior.verdict.grade,
        "gradients": int(gradients),
    }


def _fits(posterior: Posterior) -> bool:
    found = posterior.diagnostics
    fits = posterior.khat < LIMIT and _moved(posterior) <= MOVED
    return fits and not found.bad and not found.cut and found.missed <= MISSED[1]


def _moved(posterior: Posterior) -> float:
    found = posterior.diagnostics
    return max(found.mean_shift, found.sd_shift, found.cut_shift)


def _grow(q: Any, found: Any, count: int) -> Mixture:
    while not isinstance(q, Mixture) or q.num_components < count:
        q = add_component(q, found.draws, found.log_p - found.log_q)
        found = _spread(q, found)
    return q


def _spread(q: Mixture, found: Any) -> Any:
    """The draws weighed against the grown mixture, so that the next component goes elsewhere."""
    return found._replace(log_q=np.asarray(q.log_prob(jnp.asarray(found.draws))))


def _typed(key: Array) -> Array:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if typed else jax.random.wrap_key_data(key)
