"""One call from inputs and targets to a Gaussian-process posterior with a verdict."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from gp import methods
from gp.assembly import assemble, explain
from gp.evidence import known_sites
from gp.inducing.minibatch import Minibatches, MinibatchRun, MinibatchState
from gp.inputs import Missing
from gp.model import Data, Model
from gp.natural_gradient import start_sites
from gp.parameters import matching, parameters, unconstrained
from gp.posterior import Posterior
from gp.preparation import prepare
from gp.starts import train_several
from gp.training import TrainingRun, TrainingState, line_searching
from vi.clock import Clock
from vi.fitting import hand_over
from vi.loop import Callback, LoopOptions, iterate
from vi.options import OnFailure
from vi.status import Status
from vi.targets.mesh import as_here, rows_over, whole
from vi.threads import blas_threads

ROUNDS = 3  # of training, where the host's work on the inputs follows the length scales


def fit(
    x: Float[Array, "N D"],
    y: Float[Array, " N"],
    *,
    key: Array,
    kernel: Any = None,
    likelihood: Any = None,
    mean: Any = None,
    method: str = "auto",
    method_options: dict[str, Any] | None = None,
    priors: dict[str, Any] | None = None,
    train: bool = True,
    fixed: Sequence[str] = (),
    missing: Missing = "raise",
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int | None = None,
    num_starts: int = 1,
    minibatches: Minibatches | int | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike | None = None,
    on_failure: OnFailure = "warn",
) -> Posterior:
    r"""Fit a Gaussian process to data.

    .. math:: f \sim GP(μ, k), \qquad y_i \sim p(y_i \mid f(x_i)), \qquad
              \hat θ = \arg\max_θ \max_q \mathrm{ELBO}(q, θ) + \log p(θ)

    The posterior of f is a Gaussian, exact for a Gaussian likelihood, found by natural gradients on
    the sites of the data (`gp.natural_gradient.ascend`). Hyperparameters are trained by L-BFGS on
    what the ELBO can reach with them (`gp.evidence.evidence`), positive ones by their
    logarithms, from one start or from several (``num_starts``). Inputs and targets are taken as
    they are: nothing is standardised, and the default start is read off their scales. Inputs that
    coincide share one latent value, which changes no result. Use 64-bit floats
    (``jax.config.update("jax_enable_x64", True)``): in 32 bits it goes on with as much jitter as it
    takes, and says so.

    Args:
      x: inputs, shape ``(N, D)``, or ``(N,)``.
      y: targets, shape ``(N,)``; labels and classes as numbers.
      key: a key from `jax.random.key`.
      kernel: covariance function; by default `gp.Matern` of ν = 3/2 with a length scale for each
        coordinate. For L latent functions one for all, each then with hyperparameters of its own,
        or a sequence of L of one structure.
      likelihood: by default `gp.Gaussian`; its hyperparameters are trained too.
      mean: mean function; by default a constant, and zero for `gp.Ordinal`, whose cutpoints set
        the level.
      method: a prior back-end by name, or ``"auto"``: ``"state_space"``, which is exact, for more
        than 200 inputs of one coordinate and kernels that are Markov processes; else ``"dense"``
        up to 2000 distinct inputs and ``"sic"`` beyond.
      method_options: options of the back-end.
      priors: distributions of NumPyro, or anything with ``log_prob``, by names of
        hyperparameters, or their last parts, as in ``{"lengthscale": dist.LogNormal(0.0, 1.0)}``;
        their log densities, in the hyperparameters' own units, are added to the ELBO (maximum a
        posteriori).
      train: whether to train hyperparameters at all.
      fixed: names of hyperparameters to leave as they are, or their last parts.
      missing: what to do with targets that are NaN: ``"raise"`` or ``"ignore"`` them.
      optimizer: any optax transformation, given the objective as ``value_fn``; L-BFGS if None.
      num_steps: of the optimizer, at most (100); it ends when three in a row gain less than 1e-3
        nats. With minibatches, how many it takes (2000). In each of up to three rounds, between
        which neighbours or inducing inputs are looked for again if length scales have moved.
      num_starts: how many starts to train from, side by side in one compiled loop: the given or
        default one, and draws: from the priors where there are some, else with logarithms of
        standard deviation 1.5 about the given values. The best goes on, and the verdict says how
        many ended there, ``provenance["starts"]`` where each did. Evidence over length scales and
        periods has many optima; take five or more where kernels are added or multiplied.
      minibatches: train on parts of the data, of a size or as `Minibatches` says, by Adam if no
        optimizer is given; for ``method="inducing"``. All data are looked at once at the end.
      mesh: devices, from `jax.make_mesh`, that share the work on the data: with
        ``method="inducing"`` each has its part of the rows, or of a minibatch's; with ``"sic"``
        all data, and its part of the columns. Results are those of one device up to the order of
        summation, and the posterior is on one device. Several processes make the same calls.
      progress: show a progress bar; by default in a terminal, if the run takes over a second.
      callback: called as ``callback(step, state, info)`` between chunks of 5 steps, with the
        steps of the round; true stops.
      checkpoint: a file to save training to and to continue from, as of `vi.fit`.
      on_failure: what to do if training breaks down: ``"warn"``, ``"raise"`` or ``"return"``.

    Returns:
      The posterior. ``print(posterior.verdict)`` says whether to trust it.

    Raises:
      ValueError: for inputs or targets that are not finite, targets outside the likelihood's
        support (named), shapes, names or hyperparameters that cannot be, for a kernel that is
        not positive definite whatever the jitter, with the pair of inputs to look at, and for a
        mesh where devices cannot share the method's work.
      TypeError: for a likelihood, prior, mesh or option of another kind.

    Complexity:
      Dense: O(N³) time for each evaluation, about 1.5 a step, for a non-Gaussian likelihood times
      the five or so steps of its ascent; O(N²) memory. State space and SIC: linear in N.

    Example:
      >>> import gp, jax, jax.numpy as jnp
      >>> x = jnp.linspace(0.0, 6.0, 40)
      >>> y = jnp.sin(x) + 0.1 * jax.random.normal(jax.random.key(1), (40,))
      >>> posterior = gp.fit(x, y, key=jax.random.key(0))
      >>> posterior.verdict.grade
      'good'
      >>> bool(jnp.abs(posterior.predict(jnp.asarray([1.5])).mean[0] - jnp.sin(1.5)) < 0.1)
      True
    """
    clock = Clock()
    model, data, gone = prepare(x, y, kernel, likelihood, mean, missing, "gp.fit")
    names = trained(model, fixed) if train else []
    priors = full_names(model, priors or {})
    method = methods.choose(method, model.kernel, data.x)
    if mesh is not None:
        methods.check_mesh(method, len(data.x))
    options = method_options or {}
    prior = methods.build(method, model, data.x, options)
    minibatches = _minibatches(minibatches, method, data)
    num_steps = number_of_steps(num_steps, 100 if minibatches is None else 2000)
    if minibatches is not None and not names:
        raise ValueError(
            "gp.fit: expected hyperparameters to train with minibatches; all are fixed. Leave "
            "minibatches out."
        )
    _check_starts(num_starts, minibatches, names)
    outside = callback if mesh is None else as_here(callback)
    loop = LoopOptions(progress=progress, callback=outside, checkpoint=checkpoint)
    notes, ends, status, states = _notes(data, gone), None, Status.CONVERGED, []
    with rows_over(mesh):
        model = whole(model)
        prior, data = methods.spread(method, prior, data)
        likelihood = model.likelihood
        sites = (known_sites if likelihood.conjugate else start_sites)(likelihood, data)
        fine, coarse = prior, prior.coarser() if names and hasattr(prior, "coarser") else None
        prior = fine if coarse is None else coarse
        for number in range(ROUNDS if names else 0):
            values = unconstrained(model, names)
            if minibatches is None:
                common = model, prior, data, values, sites, priors, key
                run = TrainingRun(*common, optimizer or line_searching(), num_steps)
                if number == 0 and num_starts > 1:
                    with blas_threads(len(data.x)):
                        ends = train_several(run, num_starts)
                    notes.append(ends.note())
                    model, sites = ends.model, ends.sites
                    common = model, prior, data, unconstrained(model, names), sites, priors, key
                    run = TrainingRun(*common, optimizer or line_searching(), num_steps)
                _check_start(run, model, data)
            else:
                common = model, prior, data, values, priors, key
                run = MinibatchRun(*common, optimizer, num_steps, minibatches)
            state, stopped = iterate(run, _for_round(loop, number), total=num_steps)
            status = Status(int(state.status)) if stopped == Status.RUNNING else stopped
            states.append(state)
            model, sites = run.result(state), getattr(state, "sites", sites)
            prior = run.moved(prior, state) if isinstance(run, MinibatchRun) else prior
            refreshed, moved = _refreshed(prior, model)
            if not moved or stopped != Status.RUNNING or status.failed:
                prior = refreshed
                break
            prior = refreshed
            sought = getattr(prior, "sought", "Neighbours")
            notes.append(f"{sought} were looked for again after {int(state.step)} steps.")
        if coarse is not None:
            prior, _ = _refreshed(fine, model)
            notes.append(coarse.trained)
    posterior = assemble(
        model,
        prior,
        data,
        sites,
        key,
        status,
        clock,
        mesh=mesh,
        history=_history(states),
        notes=notes,
        about={
            "method": method,
            "method_options": repr(options),
            "trained": names,
            "priors": {name: repr(value) for name, value in priors.items()},
            **({"starts": ends.elbos.tolist()} if ends else {}),
        },
        cautions=ends.cautions() if ends else [],
    )
    return hand_over(posterior, on_failure)


def number_of_steps(wanted: int | None, otherwise: int) -> int:
    """The number of steps that is wanted, checked, or another if none is."""
    if wanted is None:
        return otherwise
    if not isinstance(wanted, (int, np.integer)) or wanted < 1:
        raise ValueError(
            f"gp.fit: expected num_steps to be an integer >= 1; got {wanted!r}. To train nothing, "
            "give train=False."
        )
    return int(wanted)


def _check_starts(count: int, minibatches: Any, names: list[str]) -> None:
    if not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"gp.fit: expected num_starts to be an integer >= 1; got {count!r}.")
    if count > 1 and (minibatches is not None or not names):
        why = "without minibatches" if names else "with hyperparameters to train"
        raise ValueError(f"gp.fit: expected num_starts=1, or a fit {why}; got {count}.")


def trained(model: Model, fixed: Sequence[str]) -> list[str]:
    """Names of the hyperparameters to train: all that are not fixed.

    Args:
      model: the model.
      fixed: full names, or ends of names that only one, or all, of its hyperparameters have.

    Raises:
      ValueError: if a name is that of none.
    """
    every = parameters(model)
    kept = {name for wanted in fixed for name in matching(every, wanted, "gp.fit(fixed=...)")}
    return [name for name in every if name not in kept]


def full_names(model: Model, priors: dict[str, Any]) -> dict[str, Any]:
    """Priors by the full names of the hyperparameters that they are for.

    Args:
      model: the model.
      priors: distributions with ``log_prob``, by names or ends of names.

    Raises:
      TypeError: if one is no distribution.
      ValueError: if a name is that of no hyperparameter.
    """
    found = {}
    for wanted, prior in priors.items():
        if not hasattr(prior, "log_prob"):
            raise TypeError(
                f"gp.fit: expected a distribution with log_prob as the prior of {wanted!r}; got "
                f"{prior!r}."
            )
        for name in matching(parameters(model), wanted, "gp.fit(priors=...)"):
            found[name] = prior
    return found


def _check_start(run: TrainingRun, model: Model, data: Data) -> None:
    """Raise a `ValueError` that says why, if the objective is not finite at the start."""
    if not np.isfinite(float(run.initial().loss)):
        raise ValueError(explain(model, data, "gp.fit"))


def _minibatches(wanted: Any, method: str, data: Data) -> Minibatches | None:
    """How to train on parts of the data, if at all."""
    if wanted is None:
        return None
    if method != "inducing":
        raise ValueError(
            f"gp.fit: expected minibatches only with method='inducing'; got method {method!r} for "
            f"{len(data.x)} distinct inputs. Name the method, or leave minibatches out."
        )
    return wanted if isinstance(wanted, Minibatches) else Minibatches(wanted)


def _for_round(loop: LoopOptions, number: int) -> LoopOptions:
    if loop.checkpoint is None or number == 0:
        return loop
    return dataclasses.replace(loop, checkpoint=f"{os.fspath(loop.checkpoint)}.{number}")


def _refreshed(prior: Any, model: Model) -> tuple[Any, bool]:
    """The prior for trained hyperparameters, and whether the host's work on it is another."""
    if not hasattr(prior, "refreshed"):
        return prior, False
    new = prior.refreshed(model.kernel)
    return new, getattr(new, "graph", None) is not getattr(prior, "graph", None)


def _notes(data: Data, gone: int) -> list[str]:
    notes = []
    if gone:
        notes.append(f"{gone} targets were missing.")
    if len(data.y) > 1 and np.ptp(np.asarray(data.y)) == 0:
        notes.append("All targets are equal, which says nothing of length scales or noise.")
    if len(data.x) < len(data.y):
        notes.append(f"{len(data.y) - len(data.x)} inputs coincide with others.")
    return notes


def _history(states: list[TrainingState | MinibatchState]) -> dict[str, np.ndarray]:
    """Steps and objectives of all rounds of training, one after the other."""
    ends = np.cumsum([0, *(int(state.step) for state in states)])
    steps = [state.steps + end for state, end in zip(states, ends, strict=False)]
    elbos = [state.elbos for state in states]
    empty = np.zeros(0)
    return {
        "step": np.concatenate([empty.astype(int), *steps]),
        "elbo": np.concatenate([empty, *elbos]),
    }
