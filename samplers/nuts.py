"""NUTS in the coordinates of a variational approximation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array

from samplers.chains import Chains
from samplers.convergence import Convergence, bfmi, judge, rhat_and_ess
from samplers.coordinates import noise_target
from samplers.kept import MAX_DOUBLINGS, Transition
from vi import Posterior, Target, fit
from vi import target as make_target
from vi.clock import Clock
from vi.loop import LoopOptions, iterate
from vi.provenance import provenance
from vi.status import Status

WARMUP = 150, 500  # transitions where the start fits, and where it does not


def nuts(
    model: Callable | Target,
    *args: Any,
    key: Array,
    start: Posterior | None = None,
    num_samples: int = 1000,
    num_chains: int = 4,
    num_warmup: int | None = None,
    target_acceptance: float = 0.8,
    progress: bool | None = None,
    callback: Callable | None = None,
    checkpoint: Any = None,
    **kwargs: Any,
) -> Chains:
    r"""Sample a posterior by the no-U-turn sampler, started and scaled by an approximation.

    The chains run in the noise x of the approximation, z = T(x), where the posterior is nearly a
    unit normal if the approximation is good: for a Gaussian q, :math:`z = m + L x`; for a flow, the
    flow. They start at draws of q chosen by their importance weights. Warm-up has only the step
    size and the residual variances of x left to find, pooled over chains, so it is short; draws are
    of the posterior itself, however poor q is, and the verdict on them is by R-hat, effective
    sample sizes and divergences.

    Args:
      model: a NumPyro model, a log density (`vi.target`), or a `vi.Target`.
      *args: arguments of the model: its data.
      key: a key from `jax.random.key`.
      start: a posterior of the same model from `vi.fit`, best of the same data; by default one is
        fitted. The draws are of this call's data whatever the start's were.
      num_samples: number S of draws of each chain, after warm-up.
      num_chains: number C of chains.
      num_warmup: transitions of each chain that are thrown away, rounded up to whole windows of
        50; by default 150 where the verdict on ``start`` is good or fair, else 500.
      target_acceptance: mean acceptance rate that the step size is adapted to; higher is slower
        and follows sharper curvature.
      progress: show a progress bar; by default in a terminal, if the run takes over a second.
      callback: called as ``callback(step, state, info)`` between windows; true stops.
      checkpoint: a file; the state is saved there between windows, and a call that finds it
        continues the run with the same result as if it had not been interrupted.
      **kwargs: keyword arguments of the model.

    Returns:
      The chains. ``print(chains.verdict)`` says whether to trust them.

    Raises:
      ValueError: for numbers that mean nothing.
      TypeError: if ``start`` is no posterior, or of another model.
      NonFiniteTargetError: if the density is not finite at any draw of ``start``.

    Complexity:
      A gradient for each leapfrog step, about 3 to 15 a transition in good coordinates; O(C S D)
      memory. On a CPU chains run one after another; a step of the chain costs one gradient and
      O(D²) for a full-rank start.

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, samplers
      >>> def model(y):
      ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
      ...     numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)
      >>> chains = samplers.nuts(model, jnp.arange(5.0), key=jax.random.key(0), num_samples=200)
      >>> chains.draws()["mu"].shape
      (4, 200)

    Reference:
      Hoffman and Gelman (2014), "The No-U-Turn Sampler", in blackjax's multinomial, iterative
      form; coordinates as in Hoffman et al. (2019), "NeuTra-lizing bad geometry".
    """
    from samplers.nuts_run import NutsRun

    _check(num_samples, num_chains, num_warmup, target_acceptance)
    clock = Clock()
    target = make_target(model, *args, **kwargs)
    if start is None:
        start = fit(target, key=key, progress=progress, on_failure="return")
    _check_start(start, target)
    if num_warmup is None:
        num_warmup = WARMUP[0] if start.verdict.grade in ("good", "fair") else WARMUP[1]
    run = NutsRun(
        noise_target(target, start), key, num_samples=num_samples, num_chains=num_chains,
        num_warmup=num_warmup, acceptance=target_acceptance,
    )  # fmt: skip
    options = LoopOptions(progress=progress, callback=callback, checkpoint=checkpoint)
    state, stopped = iterate(run, options, total=run.num_steps)
    status = Status(int(state.status)) if stopped == Status.RUNNING else stopped
    found = _convergence(state.kept, target)
    cost = {
        "gradients": state.gradients,
        "warmup_gradients": state.warmup_gradients,
        **clock.read(),
    }
    note = f"Started from a {start.verdict.grade} approximation, {run.num_warmup} warm-up steps."
    verdict = judge(found, num_chains, status, [note])
    options_given = {"num_samples": num_samples, "num_chains": num_chains, "num_warmup": num_warmup}
    about = {**provenance(target, key, options_given), "status": status.name, "cost": cost}
    return Chains(target, state.kept, status, verdict, found, cost, start, key, about)


def _convergence(kept: Transition, target: Target) -> Convergence:
    chains, samples, dim = kept.z.shape
    if samples < 4:
        nan = float("nan")
        return Convergence(nan, 0.0, 0.0, "none", 0, chains * samples, nan, nan, nan)
    each = np.array([rhat_and_ess(kept.z[:, :, i].astype(float)) for i in range(dim)])
    worst = int(np.nanargmax(np.where(np.isnan(each[:, 0]), np.inf, each[:, 0])))
    rhat, bulk, tail = np.where(np.isnan(each), [np.inf, 0.0, 0.0], each).T
    return Convergence(
        rhat=float(rhat.max()),
        ess_bulk=float(bulk.min()),
        ess_tail=float(tail.min()),
        worst=target.layout.coordinate(worst),
        divergences=int(kept.divergent.sum()),
        transitions=chains * samples,
        bfmi=float(np.min(bfmi(kept.energy.astype(float)))),
        acceptance=float(kept.acceptance.mean()),
        capped=float(np.mean(kept.leapfrogs >= 2**MAX_DOUBLINGS - 1)),
    )


def _check(
    num_samples: int, num_chains: int, num_warmup: int | None, target_acceptance: float
) -> None:
    numbers = {"num_samples": (num_samples, 4), "num_chains": (num_chains, 1)}
    if num_warmup is not None:
        numbers["num_warmup"] = (num_warmup, 1)
    for name, (value, least) in numbers.items():
        if value < least:
            raise ValueError(f"samplers.nuts: expected {name} >= {least}; got {value}.")
    if not 0 < target_acceptance < 1:
        raise ValueError(
            "samplers.nuts: expected target_acceptance between 0 and 1; got "
            f"{target_acceptance}. Usual are 0.8 to 0.99."
        )


def _check_start(start: Any, target: Target) -> None:
    if not isinstance(start, Posterior):
        raise TypeError(
            f"samplers.nuts: expected start from vi.fit; got {type(start).__name__}. Leave it out "
            "to have one fitted."
        )
    if start.target.layout != target.layout:
        raise TypeError(
            "samplers.nuts: expected start of the same model; its sites are "
            f"{start.target.layout.names}, the model's are {target.layout.names}."
        )
