"""Tempered sequential Monte Carlo from a variational approximation to the posterior."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from samplers.algorithms import HMC, Algorithm
from samplers.coordinates import noise_target
from samplers.mcmc import check_algorithm, check_start
from samplers.population import Population, agreement, evidence, judge
from vi import Posterior, Target, fit
from vi import target as make_target
from vi.clock import Clock
from vi.loop import LoopOptions, iterate
from vi.provenance import provenance
from vi.status import Status

MAX_TEMPERATURES = 200


def smc(
    model: Callable | Target,
    *args: Any,
    key: Array,
    algorithm: Algorithm | None = None,
    start: Posterior | None = None,
    num_particles: int = 1000,
    num_populations: int = 4,
    num_moves: int = 5,
    spread: float = 2.0,
    effective: float = 0.5,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    callback: Callable | None = None,
    checkpoint: Any = None,
    **kwargs: Any,
) -> Population:
    r"""Sample a posterior by particles that go from a wide approximation to it, with its evidence.

    In the noise x of the approximation, z = T(x), the particles begin at N(0, s²) and go through

    .. math:: γ_t(x) = N(x; 0, s^2)^{1 - β_t}\, \tilde p(x)^{β_t}, \qquad
        0 = β_0 < \dots < β_T = 1, \qquad
        \hat Z = \prod_t \sum_i W_{t-1}^i \Big(\frac{\tilde p}{N(0, s^2)}\Big)^{β_t - β_{t-1}}(x_i)

    each temperature as far from the last as leaves a share of the particles effective, resampled,
    and moved by an algorithm that leaves it invariant, whose step size and metric follow the
    particles. It gives what chains do not: the evidence :math:`\int p`, and shares of modes in
    proportion to their mass, of those that the start reaches. Several populations that know nothing
    of each other show whether to trust either. Chains are cheaper where there is one mode.

    Args:
      model: a NumPyro model, a log density (`vi.target`), or a `vi.Target`.
      *args: arguments of the model: its data.
      key: a key from `jax.random.key`.
      algorithm: of the moves: `samplers.HMC` (the default), `samplers.MCLMC` or `samplers.NUTS`.
      start: as for `samplers.nuts`.
      num_particles: number N of particles of each population.
      num_populations: number C of populations.
      num_moves: moves of each particle at each temperature.
      spread: s; larger finds modes farther away, at more temperatures.
      effective: share of the particles that are to be effective after each change of β.
      mesh: devices that share the populations, from `jax.make_mesh`; best as many populations as
        devices.
      progress: as for `samplers.nuts`.
      callback: as for `samplers.nuts`, between temperatures.
      checkpoint: as for `samplers.nuts`.
      **kwargs: keyword arguments of the model.

    Returns:
      The populations. ``print(found.verdict)`` says whether to trust them; ``found.log_evidence``.

    Raises:
      ValueError: for numbers that mean nothing.
      TypeError: if ``start`` is no posterior, or of another model, ``algorithm`` does not adapt, or
        ``mesh`` is none.
      NonFiniteTargetError: if the density is not finite at any first particle.

    Complexity:
      C N ``num_moves`` transitions a temperature, of which there are about
      :math:`\sqrt{D}` to tens; O(C N D) memory.

    Reference: Del Moral, Doucet and Jasra (2006), "Sequential Monte Carlo samplers", as blackjax
    tempers it; temperatures that adapt to the particles leave a bias of O(1/N) in Ẑ.

    Example:
      >>> import jax, jax.numpy as jnp, samplers
      >>> density = lambda x: -0.5 * jnp.sum(x**2)  # its integral is 2π
      >>> how = {"num_particles": 200, "num_populations": 2}
      >>> found = samplers.smc(density, jnp.zeros(2), key=jax.random.key(0), **how)
      >>> bool(abs(found.log_evidence - jnp.log(2 * jnp.pi)) < 0.3)
      True
    """
    from samplers.tempering import TemperingRun, images

    algorithm = HMC() if algorithm is None else algorithm
    check_algorithm(algorithm, "samplers.smc", adaptive=True)
    numbers = {"num_particles": (num_particles, 10), "num_populations": (num_populations, 1)}
    numbers |= {"num_moves": (num_moves, 1), "spread": (spread, 1)}
    for name, (value, least) in numbers.items():
        if not value >= least:
            raise ValueError(f"samplers.smc: expected {name} >= {least}; got {value}.")
    if not 0 < effective < 1:
        raise ValueError(
            f"samplers.smc: expected effective between 0 and 1; got {effective}. Usual is 0.5."
        )
    clock = Clock()
    target = make_target(model, *args, **kwargs)
    if start is None:
        start = fit(target, key=key, progress=progress, on_failure="return")
    check_start(start, target, "samplers.smc")
    noise = noise_target(target, start)
    run = TemperingRun(
        noise, key, num_particles=num_particles, num_populations=num_populations,
        num_moves=num_moves, spread=spread, effective=effective,
        max_temperatures=MAX_TEMPERATURES, algorithm=algorithm, mesh=mesh,
    )  # fmt: skip
    options = LoopOptions(progress=progress, callback=callback, checkpoint=checkpoint)
    state, stopped = iterate(run, options)
    status = Status(int(state.status)) if stopped == Status.RUNNING else stopped
    points = np.asarray(images(noise, state.particles))
    founders = min(len(np.unique(row)) for row in state.roots)
    reached = float(state.temperatures[-1].min())
    found = agreement(
        points, target, log_evidences=tuple(map(float, state.log_evidences)), founders=founders,
        acceptance=state.acceptance, divergences=state.divergences,
        temperatures=len(state.temperatures) - 1, undefined=state.undefined, reached=reached,
    )  # fmt: skip
    cost = {"gradients": state.gradients, **clock.read()}
    notes = [f"Started from a {start.verdict.grade} approximation, {spread:g} times as wide."]
    given = {
        "algorithm": repr(algorithm),
        "num_particles": num_particles,
        "num_populations": num_populations,
        "num_moves": num_moves,
        "spread": spread,
    }
    about = {**provenance(target, key, given), "status": status.name, "cost": cost}
    whole = reached >= 1
    value, error = evidence(np.asarray(state.log_evidences)) if whole else (math.nan, math.nan)
    verdict = judge(found, status, notes)
    heats = tuple(state.temperatures.T)
    return Population(
        target, points, value, error, heats, status, verdict, found, cost, start, key, about
    )
