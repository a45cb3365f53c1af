"""Richer families, rung by rung, until one fits or the budget is spent."""

import dataclasses
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
from vi.posterior.verdict import LIMIT, MISSED
from vi.provenance import provenance
from vi.rung import describe, fit_family, one_run, other_modes, report
from vi.status import Status
from vi.targets import Target
from vi.upstairs import flow

COMPONENTS = (2, 4, 8)
BUDGET = 300_000  # gradients
WORTH = 0.01  # nats a mixture must gain for a larger one to be tried
FEWEST_STEPS = 1000  # of a flow, that are worth trying


def climb(
    target: Target, key: Array, options: FitOptions, loop: LoopOptions, clock: Clock
) -> Posterior:
    """Fit a Gaussian, then mixtures of 2, 4 and 8 Gaussians, then a neural spline flow.

    It keeps the best by ELBO, and stops at the first rung whose k-hat is below 0.7 and that covers
    all modes found, or when the next rung would take more gradients than the budget has left.
    When a mixture gains less than 0.01 nats, larger ones are passed over.

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
    budget = options.budget or BUDGET
    rungs: list[dict[str, Any]] = []
    first = dataclasses.replace(options, family=None)
    best, state = fit_family(target, key, first, loop, clock)
    rungs.append(_rung(best, best.cost["gradients"]))
    spent = best.cost["gradients"]
    why = "k-hat is below 0.7" if _fits(best) else ""
    q, found, gaussian = best.q, best.diagnostics, best.q
    modes = other_modes(state) if found.missed > MISSED[1] else []
    if modes:
        q = mixture([q, *modes])
    for count in COMPONENTS if target.dim <= MAX_DENSE else ():
        if why:
            break
        if isinstance(q, Mixture) and count < q.num_components:
            continue
        start = _grow(q, found, count)
        run = MixtureSolver(target, jax.random.fold_in(_typed(key), count), start)
        if spent + run.cost() > budget:
            break
        mixed, stopped = iterate(run, _without_checkpoint(loop))
        spent += mixed.gradients
        status = Status(mixed.status) if stopped == Status.RUNNING else stopped
        tried = report(
            target,
            run.result(mixed),
            key,
            options,
            status=status,
            notes=[],
            history=one_run(10 * np.arange(1, len(mixed.history) + 1), mixed.history),
            gradients=spent,
            clock=clock,
            others=modes,
        )
        rungs.append(_rung(tried, mixed.gradients))
        gain = tried.elbo - best.elbo
        q, found = tried.q, tried.diagnostics
        if gain > 0:
            best = tried
        if stopped != Status.RUNNING:
            why = stopped.message
        elif _fits(tried) and gain > 0:
            why = "k-hat is below 0.7"
        elif not gain > WORTH:
            break
    if not why and target.dim <= MAX_DENSE:
        steps = min(FLOW_STEPS, (budget - spent) // FLOW_PARTICLES)
        if steps < FEWEST_STEPS:
            why = f"the next rung would exceed the budget of {budget} gradients"
        else:
            bent = flow("neural_spline", target.dim, key).around(gaussian)
            flowing = dataclasses.replace(options, family=bent, num_steps=steps, budget=None)
            tried, _ = fit_family(target, key, flowing, _without_checkpoint(loop), clock, modes)
            rungs.append(_rung(tried, tried.cost["gradients"]))
            spent += tried.cost["gradients"]
            if tried.status in (Status.STOPPED, Status.INTERRUPTED):
                why = tried.status.message
            if tried.elbo > best.elbo:
                best = tried
                why = why or ("k-hat is below 0.7" if _fits(best) else "")
    why = why or "there is no richer rung"
    return _tell(best, rungs, why, spent, options, clock)


def _tell(
    best: Posterior,
    rungs: list[dict[str, Any]],
    why: str,
    spent: int,
    options: FitOptions,
    clock: Clock,
) -> Posterior:
    path = "; ".join(f"{r['family']}: ELBO {r['elbo']:.3f}, k-hat {r['khat']:.2f}" for r in rungs)
    text = f"{best.verdict.text} Tried: {path}. Stopped because {why.rstrip('.')}."
    cost = {**best.cost, "gradients": spent, **clock.read()}
    given = provenance(best.target, best.key, options.given())
    about = {**best.provenance, **given, "cost": cost}
    verdict = best.verdict._replace(text=text)
    return dataclasses.replace(
        best, verdict=verdict, cost=cost, rungs=tuple(rungs), provenance=about
    )


def _rung(posterior: Posterior, gradients: int) -> dict[str, Any]:
    return {
        "family": describe(posterior.q),
        "elbo": posterior.elbo,
        "elbo_sem": posterior.elbo_sem,
        "khat": posterior.khat,
        "grade": posterior.verdict.grade,
        "gradients": int(gradients),
    }


def _fits(posterior: Posterior) -> bool:
    found = posterior.diagnostics
    return posterior.khat < LIMIT and not found.bad and found.missed <= MISSED[1]


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


def _without_checkpoint(loop: LoopOptions) -> LoopOptions:
    return LoopOptions(progress=loop.progress, callback=loop.callback)
