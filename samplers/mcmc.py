"""Markov chains in the coordinates of a variational approximation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from samplers.algorithms import NUTS, Algorithm
from samplers.chains import Chains
from samplers.convergence import Convergence, bfmi, judge
from samplers.coordinates import noise_target
from samplers.kept import Transition
from samplers.mixing import rhat_and_ess
from vi import Posterior, Target, fit
from vi import target as make_target
from vi.clock import Clock
from vi.loop import LoopOptions, iterate
from vi.provenance import provenance
from vi.status import Status

WARMUP = 150, 500  # transitions where the start fits, and where it does not


def mcmc(
    model: Callable | Target,
    *args: Any,
    key: Array,
    algorithm: Algorithm | None = None,
    start: Posterior | None = None,
    num_samples: int = 1000,
    num_chains: int = 4,
    num_warmup: int | None = None,
    target_acceptance: float = 0.8,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    callback: Callable | None = None,
    checkpoint: Any = None,
    **kwargs: Any,
) -> Chains:
    r"""Sample a posterior by Markov chains of any algorithm, in the coordinates of a fit.

    The chains run in the noise x of the approximation, z = T(x), as those of `samplers.nuts` do,
    and are judged alike. Algorithms are values: `samplers.NUTS`, `samplers.HMC`, `samplers.MCLMC`,
    `samplers.Independence` and `samplers.DelayedAcceptance` leave the posterior invariant,
    `samplers.SGLD` and `samplers.SGHMC` do so up to their step size, on minibatches.

    Args:
      model: a NumPyro model, a log density (`vi.target`), or a `vi.Target`.
      *args: arguments of the model: its data.
      key: a key from `jax.random.key`.
      algorithm: what moves the chains; by default `samplers.NUTS`.
      start: as for `samplers.nuts`.
      num_samples: number S of draws of each chain, after warm-up.
      num_chains: number C of chains.
      num_warmup: as for `samplers.nuts`; algorithms that adapt nothing take it to forget the start.
      target_acceptance: as for `samplers.nuts`; unused by algorithms that adapt nothing.
      mesh: as for `samplers.nuts`.
      progress: as for `samplers.nuts`.
      callback: as for `samplers.nuts`.
      checkpoint: as for `samplers.nuts`.
      **kwargs: keyword arguments of the model.

    Returns:
      The chains. ``print(chains.verdict)`` says whether to trust them.

    Raises:
      ValueError: for numbers that mean nothing.
      TypeError: if ``start`` is no posterior, or of another model, or ``algorithm`` is none.
      NonFiniteTargetError: if the density is not finite at any draw of ``start``.

    Complexity:
      What the algorithm says, a transition; O(C S D) memory.

    Example:
      >>> import jax, jax.numpy as jnp, samplers
      >>> density = lambda x: -0.5 * jnp.sum(x**2) - 0.1 * jnp.sum(x**4)
      >>> how = {"algorithm": samplers.Independence(), "num_samples": 200}
      >>> chains = samplers.mcmc(density, jnp.zeros(2), key=jax.random.key(0), **how)
      >>> bool(chains.convergence.acceptance > 0.7)
      True
    """
    from samplers.run import McmcRun

    algorithm = NUTS() if algorithm is None else algorithm
    check_algorithm(algorithm, "samplers.mcmc")
    _check(num_samples, num_chains, num_warmup, target_acceptance)
    clock = Clock()
    target = make_target(model, *args, **kwargs)
    if start is None:
        start = fit(target, key=key, progress=progress, on_failure="return")
    check_start(start, target, "samplers.mcmc")
    if num_warmup is None:
        num_warmup = WARMUP[0] if start.verdict.grade in ("good", "fair") else WARMUP[1]
    run = McmcRun(
        noise_target(target, start), key, num_samples=num_samples, num_chains=num_chains,
        num_warmup=num_warmup, acceptance=target_acceptance, algorithm=algorithm,
        mesh=mesh,
    )  # fmt: skip
    options = LoopOptions(progress=progress, callback=callback, checkpoint=checkpoint)
    state, stopped = iterate(run, options, total=run.num_steps)
    status = Status(int(state.status)) if stopped == Status.RUNNING else stopped
    found = _convergence(state.kept, target, algorithm)
    cost = {
        "gradients": state.gradients,
        "warmup_gradients": state.warmup_gradients,
        **clock.read(),
    }
    notes = [f"Started from a {start.verdict.grade} approximation, {run.num_warmup} warm-up steps."]
    verdict = judge(found, num_chains, status, notes, exact=algorithm.exact)
    options_given = {
        "algorithm": repr(algorithm),
        "num_samples": num_samples,
        "num_chains": num_chains,
        "num_warmup": num_warmup,
    }
    about = {**provenance(target, key, options_given), "status": status.name, "cost": cost}
    return Chains(target, state.kept, status, verdict, found, cost, start, key, about)


def _convergence(kept: Transition, target: Target, algorithm: Algorithm) -> Convergence:
    chains, samples, _ = kept.z.shape
    if samples < 4:
        nan = float("nan")
        return Convergence(nan, 0.0, 0.0, "none", 0, chains * samples, nan, nan, nan)
    rhat, bulk, tail = rhat_and_ess(kept.z)
    rhat = np.where(np.isnan(rhat), np.inf, rhat)
    bulk, tail = np.nan_to_num(bulk), np.nan_to_num(tail)
    worst = int(np.argmax(rhat))
    return Convergence(
        rhat=float(rhat.max()),
        ess_bulk=float(bulk.min()),
        ess_tail=float(tail.min()),
        worst=target.layout.coordinate(worst),
        divergences=int(kept.divergent.sum()),
        transitions=chains * samples,
        bfmi=float(np.min(bfmi(kept.energy.astype(float)))),
        acceptance=float(kept.acceptance.mean()),
        capped=float(np.mean(kept.leapfrogs >= algorithm.longest)),
    )


def check_algorithm(algorithm: Any, owner: str, *, adaptive: bool = False) -> None:
    """Refuse what moves no chain.

    Raises:
      TypeError: if it is no algorithm, or does not adapt and must.
    """
    if not isinstance(algorithm, Algorithm) or (adaptive and not algorithm.adaptive):
        kind = "that adapts its steps " if adaptive else ""
        raise TypeError(
            f"{owner}: expected an algorithm {kind}such as samplers.HMC(); got "
            f"{algorithm!r}. Make a value of one of its classes."
        )


def _check(
    num_samples: int, num_chains: int, num_warmup: int | None, target_acceptance: float
) -> None:
    numbers = {"num_samples": (num_samples, 4), "num_chains": (num_chains, 1)}
    if num_warmup is not None:
        numbers["num_warmup"] = (num_warmup, 1)
    for name, (value, least) in numbers.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(
                f"samplers.mcmc: expected {name} >= {least}; got {value!r}. Give a whole number."
            )
    if not (isinstance(target_acceptance, float | np.floating) and 0 < target_acceptance < 1):
        raise ValueError(
            "samplers.mcmc: expected target_acceptance between 0 and 1; got "
            f"{target_acceptance}. Usual are 0.8 to 0.99."
        )


def check_start(start: Any, target: Target, owner: str) -> None:
    """Refuse what is no start.

    Raises:
      TypeError: if it is no posterior, or of another model.
    """
    if not isinstance(start, Posterior):
        raise TypeError(
            f"{owner}: expected start from vi.fit; got {type(start).__name__}. Leave it out "
            "to have one fitted."
        )
    if start.target.layout != target.layout:
        raise TypeError(
            f"{owner}: expected start of the same model; its sites are "
            f"{start.target.layout.names}, the model's are {target.layout.names}."
        )
