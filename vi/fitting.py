"""One call from a model and its data to a posterior with a verdict."""

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optax
from jax.sharding import Mesh
from jaxtyping import Array

from vi.clock import Clock
from vi.errors import FitError, check_call
from vi.families.scale import Positive
from vi.ladder import climb
from vi.loop import Callback, LoopOptions
from vi.options import Estimator, FamilyName, FitOptions, OnFailure
from vi.posterior import Posterior
from vi.program import Objective
from vi.random import check_key
from vi.rung import fit_family
from vi.targets import Target
from vi.targets import target as make_target
from vi.targets.mesh import spread


def fit(
    model: Callable | Target,
    *args: Any,
    key: Array,
    family: FamilyName | Callable | Any | None = None,
    rank: int | None = None,
    blocks: Sequence[Sequence[str]] | None = None,
    positive: Positive | None = None,
    objective: Objective | None = None,
    estimator: Estimator | Any | None = None,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    num_steps: int | None = None,
    init: dict[str, Array] | None = None,
    num_draws: int | None = None,
    budget: int | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike | None = None,
    on_failure: OnFailure = "warn",
    **kwargs: Any,
) -> Posterior:
    r"""Approximate the posterior of a model.

    Without options it finds the Gaussian q on the unconstrained space that maximises

    .. math:: \mathrm{ELBO}(q) = E_q[\log p(z, y)] + H[q] = \log p(y) - KL(q \| p(\cdot | y)),

    by natural gradients from several starts (`vi.gaussian.solve`), and judges it with fresh
    draws. ``family``, ``rank`` and ``blocks`` choose another family; a flow starts from that
    Gaussian, and is only handed over where it is better by common draws. Any of ``positive``,
    ``objective``, ``estimator``, ``optimizer``, ``learning_rate`` and ``num_steps`` asks for
    stochastic optimisation instead, as does a plate with ``subsample_size``. The other options
    are about the run.

    Args:
      model: a NumPyro model, a log density (`vi.target`), or a `Target`.
      *args: arguments of the model: its data.
      key: a key from `jax.random.key`.
      family: ``"full_rank"`` (default up to D = 1000), ``"mean_field"`` (default beyond),
        ``"block"``, ``"low_rank"``, ``"delta"`` (maximum a posteriori), a flow trained from the
        best Gaussian (``"neural_spline"``, ``"realnvp"``, ``"maf"``, ``"iaf"``, ``"planar"``,
        ``"radial"``, ``"sylvester"``, ``"block_neural"``, ``"residual"``, ``"polynomial"``),
        ``"auto"`` (richer families, rung by rung, until k-hat is below 0.7 and importance weights
        leave the moments where they are, or the budget is spent), a family such as `vi.mixture`
        or `flows.realnvp` makes, or a function of D that returns one.
      rank: columns of the factor of ``"low_rank"``; 10 if not given.
      blocks: for ``"block"``, groups of site names; by default each site is a block.
      positive: parameterisation of the scales of a named family: ``"linear"`` (default),
        ``"softplus"`` or ``"exp"``.
      objective: an objective, such as ``vi.elbo(num_particles=10)``, which is the default.
      estimator: how the objective is differentiated: ``vi.Pathwise()`` (default of an objective
        that is given), ``vi.StickingTheLanding()`` (for the ELBO; default of the default
        objective), ``vi.PathGradient()`` (the same, for flows), ``vi.DoublyReparameterized()``
        (default of `vi.iwae`, `vi.miwae` and `vi.ciwae`), ``vi.Score()``,
        ``vi.RunningScore()``, for mean-field Gaussians ``vi.MeasureValued()``; or, in place of an
        objective and for Gaussians, one of `vi.gaussian`, of which ``Stein`` is the default on
        minibatches.
      optimizer: any optax transformation; if not given `optim.a_dog` with clipped gradients, which
        has no learning rate; Adam for D > 1000 or if ``learning_rate`` is given; L-BFGS for
        ``"delta"``; Adam with clipped gradients for flows.
      learning_rate: of Adam, 0.01 if not given, or of L-BFGS before its line search. Without
        ``num_steps`` Adam's is lowered twice, each time to 0.3 of it, when the ELBO has stopped
        rising. For flows 0.005 at first, by a cosine to zero; with an objective that averages
        fewer than 32 particles, or bounds, as much less as its noise is larger.
      num_steps: steps of stochastic optimisation; if not given, 4000 for flows, else at most
        10,000 and until a test finds that the ELBO has stopped rising (95 % over all its looks,
        0.05 nats over a third of the steps).
      init: constrained values of all latent sites to start from, ``{site: value}``.
      num_draws: fresh draws to diagnose with; by default from 2048 to 16,384 by their cost.
      budget: for ``family="auto"``, gradients after which no rung is begun; 500,000 if not given.
      mesh: devices, from `jax.make_mesh`: the rows of data arrays whose first axis they divide are
        spread over them (`vi.shard`), and so is the work; where there is no such array they share
        the points of the search for a Gaussian and the draws of the diagnostics. Results differ
        from those of one device by the order of summation. Processes of `jax.distributed` make
        the same call.
      progress: show a progress bar; by default in a terminal, if the run takes over a second.
      callback: called as ``callback(step, state, info)`` between chunks; true stops.
      checkpoint: a file; the state is saved there between chunks, and a call that finds it
        continues the fit with the same result as if it had not been interrupted.
      on_failure: what to do if the run breaks down: ``"warn"``, ``"raise"`` (`FitError`, which
        has the posterior) or ``"return"``. The posterior is the last good state in any case.
      **kwargs: keyword arguments of the model.

    Returns:
      The posterior. ``print(posterior.verdict)`` says whether to trust it.

    Raises:
      TargetError: if the model cannot be a target; the message names the site.
      NonFiniteTargetError: if the density is not finite at any start.
      ValueError: for options that mean nothing together.
      TypeError: for arguments that are neither options nor the model's.

    Complexity:
      For full rank about ten to thirty steps from each of two to eight starts and 20 to 300
      of refinement, each of 2D + 1 gradients and O(D³) arithmetic; O(D²) memory.

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
      >>> def model(y):
      ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
      ...     sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
      ...     numpyro.sample("y", dist.Normal(mu, sigma).expand(y.shape).to_event(1), obs=y)
      >>> y = 3.0 + jax.random.normal(jax.random.key(1), (100,))
      >>> posterior = vi.fit(model, y, key=jax.random.key(0))
      >>> posterior.verdict.grade in ("good", "fair")
      True
    """
    options = FitOptions(
        family=family, rank=rank, blocks=blocks, positive=positive, objective=objective,
        estimator=estimator, optimizer=optimizer, learning_rate=learning_rate,
        num_steps=num_steps, init=init, num_draws=num_draws, budget=budget, on_failure=on_failure,
    )  # fmt: skip
    options.check()
    check_key("vi.fit", key)
    _check_names(model, options)
    loop = LoopOptions(progress=progress, callback=callback, checkpoint=checkpoint)
    clock = Clock()
    if not isinstance(model, (Target, functools.partial)):
        check_call(model, args, kwargs, "vi.fit", _OPTIONS)
    target = make_target(model, *args, **kwargs)
    if mesh is not None:
        target = spread(target, mesh)
    if family == "auto":
        posterior = climb(target, key, options, loop, clock)
    else:
        posterior, _ = fit_family(target, key, options, loop, clock)
    return hand_over(posterior, on_failure)


_OPTIONS = tuple(inspect.signature(fit).parameters)


def _check_names(model: Any, options: FitOptions) -> None:
    """Raise a `TypeError` if the model has a parameter of the name of an option that is given."""
    try:
        names = set(inspect.signature(model).parameters)
    except (TypeError, ValueError):
        return
    clash = sorted(names & {*options.given(), "key"} - {"on_failure"})
    if clash and not isinstance(model, Target):
        raise TypeError(
            f"vi.fit: expected options whose names are not also the model's; {clash} are both. "
            "Give the model's with vi.target(model, ...) or functools.partial, and fit the result."
        )


def hand_over(posterior: Any, on_failure: OnFailure) -> Any:
    """Return a posterior; if its fit broke down, warn or raise as asked, at the caller's caller."""
    if not posterior.status.failed or on_failure == "return":
        return posterior
    if on_failure == "raise":
        raise FitError(str(posterior.verdict), posterior)
    warnings.warn(str(posterior.verdict), RuntimeWarning, stacklevel=3)
    return posterior
