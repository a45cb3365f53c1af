"""From entries of a table with continuous coordinates to factors that are functions of them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gp import methods
from gp.inputs import as_inputs, as_targets
from gp.kernels import Matern
from gp.likelihoods import Gaussian
from gp.means import Zero
from gp.model import Model
from gp.parameters import (
    as_arrays,
    check_positive,
    constrained,
    matching,
    parameters,
    unconstrained,
)
from gp.posterior import Prediction
from gp.sites import Sites
from gp.tensor.algebra import Core, value_moments
from gp.tensor.sweep import Factor, Problem, State, run
from vi.compile import quick_jit
from vi.module import module, static
from vi.random import check_count, fast_key

_CHUNK = 25  # sweeps between looks
_METHODS = "state_space", "dense"
_FIFTH = 0.2  # of the spread of coordinates: longer ones begin by leaving much to the noise


@module
class FunctionalTensor:
    """A fitted functional tensor; made by `functional_tensor`.

    Attributes:
      problem: priors of the modes, with trained kernels, and the entries less their mean.
      state: q.
      offset: the mean of the entries.
      elbo: nats, of the entries as they were given.
      history: the bound after each sweep.
      converged: whether the last sweeps raised it by less than the tolerance.
    """

    problem: Problem
    state: State
    offset: Float[Array, ""]
    elbo: float = static()
    history: tuple[float, ...] = static()
    converged: bool = static()

    @property
    def kernels(self) -> tuple:
        """The modes' kernels, with trained hyperparameters."""
        return tuple(prior.kernel for prior in self.problem.priors)

    @property
    def noise(self) -> float:
        """The variance of the noise, one over its mean precision."""
        return float(self.state.rate / self.state.shape)

    def factor(self, mode: int, x: Float[Array, "M ..."]) -> Prediction:
        """Means and variances of a mode's components at coordinates, shape ``(M, R)``."""
        prior, own = self.problem.priors[mode], self.state.factors[mode]
        points = as_inputs(x, "FunctionalTensor.factor", prior.x.shape[1]).astype(prior.x.dtype)
        each, index = np.unique(points, axis=0, return_inverse=True)
        found = []
        for r in range(own.mean.shape[1]):
            q = _condition(prior, Sites(own.sites.linear[:, r], own.sites.precision[:, r]))
            found.append([np.asarray(part) for part in prior.predict(q, jnp.asarray(each))])
        rows = index.reshape(-1)
        mean, variance = (np.stack(part, 1)[rows] for part in zip(*found, strict=True))
        return Prediction(mean, variance)

    def predict(self, coordinates: Sequence[Float[Array, "M ..."]]) -> Prediction:
        """Means and variances of the function, noise left out, at M places.

        Args:
          coordinates: one array for each mode, ``(M,)`` or ``(M, D_k)``.

        Returns:
          The moments under q, exact; `noise` is the variance that new entries have besides.

        Raises:
          ValueError: for another number of modes, or of coordinates.
        """
        _check_modes(coordinates, len(self.problem.priors), "FunctionalTensor.predict")
        factors = [self.factor(mode, x) for mode, x in enumerate(coordinates)]
        pairs = [tuple(map(jnp.asarray, factor)) for factor in factors]
        mean, second = map(np.asarray, _moments(pairs, self.state.core))
        return Prediction(mean + float(self.offset), np.maximum(second - mean**2, 0.0))


@quick_jit
def _condition(prior: Any, sites: Sites) -> Any:
    return prior.condition(sites)


@quick_jit
def _moments(factors: list, core: Core | None) -> tuple[Array, Array]:
    return value_moments(factors, core)


def functional_tensor(
    coordinates: Sequence[Float[Array, "N ..."]],
    y: Float[Array, " N"],
    rank: int | Sequence[int],
    *,
    key: Array,
    kernels: Sequence[Any] | None = None,
    core: bool = False,
    train: bool = True,
    fixed: Sequence[str] = (),
    noise_prior: tuple[float, float] = (1.0, 0.01),
    num_starts: int = 4,
    num_sweeps: int = 400,
    rate: float = 0.05,
    tolerance: float = 1e-2,
) -> FunctionalTensor:
    r"""Fit a CP or Tucker decomposition whose factors are functions of continuous coordinates.

    .. math::

       y_n = \sum_{r_1 \dots r_K} γ_{r_1 \dots r_K} \prod_k u^k_{r_k}(x^k_n) + N(0, τ^{-1}), \qquad
       u^k_r \sim GP(0, k_k), \quad γ \sim N(0, I), \quad τ \sim \mathrm{Gamma}(a_0, b_0 v)

    (v the variance of the entries.) With CP all :math:`r_k` are equal and γ is one. The posterior
    is of the form :math:`q = \prod_{k,r} q(u^k_r)\, q(γ)\, q(τ)`, each in closed form given the
    rest (variational message passing): a component of a mode is a Gaussian process on sites, in
    linear time along one coordinate where there are more than 200 distinct ones and the kernel is
    a Markov process, else by dense matrices. The bound is a true ELBO, and its gradient trains
    the kernels between sweeps. It has several optima: some starts are drawn from the prior, and
    the best after 25 sweeps goes on.

    Args:
      coordinates: one array for each of K modes, ``(N,)`` or ``(N, D_k)``: times, places, numbers
        of categories (with a kernel that lets them be, such as a very short length scale).
      y: the entries that are known.
      rank: R, or with a core one for each mode.
      key: a key, for starts.
      kernels: one for each mode; by default Matérn-3/2 with a length scale of a fifth of the
        coordinates' standard deviation. Add a `gp.Constant` where factors vary about a level.
      core: whether to have γ (Tucker).
      train: whether to train the kernels.
      fixed: names of hyperparameters to leave, as ``"0.lengthscale"``, or their last parts.
      noise_prior: a₀ and b₀.
      num_starts: starts.
      num_sweeps: at most.
      rate: of Adam, in logarithms of the hyperparameters.
      tolerance: nats a sweep; it ends when 25 sweeps raise the bound by less than 25 of it.

    Returns:
      The decomposition.

    Raises:
      ValueError: for shapes, ranks or hyperparameters that cannot be, entries that are not finite,
        and modes that need another method.

    Complexity:
      A sweep takes O(N K R²) for CP, O(N K R^{2K}) with a core, and R conditionings of each mode.

    Example:
      >>> import gp, jax, numpy as np
      >>> rng = np.random.default_rng(0)
      >>> s, t = rng.uniform(size=(2, 200))
      >>> y = np.sin(6 * s) * np.cos(4 * t) + 0.05 * rng.normal(size=200)
      >>> found = gp.functional_tensor([s, t], y, 1, key=jax.random.key(0), num_sweeps=50)
      >>> new = found.predict([np.array([0.25]), np.array([0.1])])
      >>> bool(abs(new.mean[0] - np.sin(1.5) * np.cos(0.4)) < 0.1)
      True

    Reference: Fang, Yu, Wang, Li, Kirby and Zhe (2024), "Functional Bayesian Tucker decomposition
    for continuous-indexed tensor data", equations 3 to 6; by variational messages in place of
    conditional expectation propagation, with independent components and trained kernels.
    """
    owner = "functional_tensor"
    for name, wanted in (("num_starts", num_starts), ("num_sweeps", num_sweeps)):
        check_count(owner, name, wanted)
    points, index, known, offset = _prepared(coordinates, y, owner)
    modes = len(points)
    ranks = _ranks(rank, modes, core, owner)
    scale = float(np.var(known)) or 1.0
    if kernels is None:
        variance = (scale / (math.prod(ranks) if core else ranks[0])) ** (1 / modes)
        kernels = [Matern(_FIFTH * np.where(x.std(0) > 0, x.std(0), 1.0), variance) for x in points]
    _check_modes(kernels, modes, owner, "kernels")
    kernels = as_arrays(tuple(kernels), known.dtype)
    check_positive(kernels, owner)
    names = parameters(kernels) if train else {}
    kept = {name for wanted in fixed for name in matching(names, wanted, f"{owner}(fixed=...)")}
    values = unconstrained(kernels, [name for name in names if name not in kept])
    number = lambda value: jnp.asarray(value, known.dtype)
    problem = Problem(
        tuple(_prior(kernel, x, owner) for kernel, x in zip(kernels, points, strict=True)),
        tuple(map(jnp.asarray, index)),
        jnp.asarray(known),
        (number(noise_prior[0]), number(noise_prior[1] * scale)),
    )
    states = [
        _start(problem, ranks, core, jax.random.fold_in(fast_key(key), i), scale)
        for i in range(num_starts)
    ]
    step = number(rate)
    ends = [run(problem, state, kernels, values, step, min(_CHUNK, num_sweeps)) for state in states]
    state, values, bounds = max(ends, key=lambda end: _last(end[2]))
    history, converged = [*np.asarray(bounds, float)], False
    while len(history) < num_sweeps and not converged:
        count = min(_CHUNK, num_sweeps - len(history))
        state, values, bounds = run(problem, state, kernels, values, step, count)
        history += [*np.asarray(bounds, float)]
        converged = count == _CHUNK and history[-1] - history[-1 - count] < tolerance * count
    trained = constrained(kernels, values)
    priors = tuple(_prior(k, x, owner) for k, x in zip(trained, points, strict=True))
    problem = Problem(priors, problem.index, problem.y, problem.noise)
    return FunctionalTensor(
        problem, state, number(offset), history[-1], tuple(map(float, history)), bool(converged)
    )


def _last(bounds: Array) -> float:
    value = float(bounds[-1])
    return value if math.isfinite(value) else -math.inf


def _prepared(coordinates: Sequence, y: Any, owner: str) -> tuple[list, list, np.ndarray, float]:
    """Distinct coordinates of each mode, where each entry's are among them, entries, their mean."""
    if not isinstance(coordinates, Sequence) or not len(coordinates):
        raise ValueError(f"{owner}: expected a sequence of coordinates, one for each mode.")
    rows = [as_inputs(x, owner) for x in coordinates]
    _, y, _ = as_targets(rows[0], y, Gaussian(), "raise", owner)
    if len({len(x) for x in rows}) != 1:
        raise ValueError(
            f"{owner}: expected coordinates of {len(y)} entries for each mode; got "
            f"{[len(x) for x in rows]}."
        )
    points, index = [], []
    for x in rows:
        each, place = np.unique(x.astype(y.dtype), axis=0, return_inverse=True)
        points.append(each)
        index.append(place.reshape(-1).astype(np.int32))
    return points, index, y - y.mean(), float(y.mean())


def _check_modes(given: Sequence, modes: int, owner: str, name: str = "coordinates") -> None:
    if len(given) != modes:
        raise ValueError(f"{owner}: expected {name} for {modes} modes; got {len(given)}.")


def _ranks(rank: int | Sequence[int], modes: int, core: bool, owner: str) -> tuple[int, ...]:  # noqa: FBT001
    ranks = tuple(rank) if isinstance(rank, Sequence) else (rank,) * modes
    for each in ranks:
        check_count(owner, "rank", each)
    if len(ranks) != modes or min(ranks) < 1 or (not core and len(set(ranks)) > 1):
        raise ValueError(
            f"{owner}: expected a rank >= 1, or with core=True one for each of {modes} modes; got "
            f"{rank}."
        )
    return ranks


def _prior(kernel: Any, x: np.ndarray, owner: str) -> Any:
    method = methods.choose("auto", kernel, x)
    if method not in _METHODS:
        raise ValueError(
            f"{owner}: expected at most {methods.MOST_DENSE} distinct coordinates of a mode, or a "
            f"Markov kernel such as gp.Matern of one coordinate; got {x.shape}."
        )
    return methods.build(method, Model(kernel, Zero(), Gaussian()), jnp.asarray(x), {})


def _start(problem: Problem, ranks: Sequence[int], core: bool, key: Array, scale: float) -> State:  # noqa: FBT001
    """A draw of the prior for each component, taken for certain."""
    factors, dtype = [], problem.y.dtype
    for mode, (prior, rank) in enumerate(zip(problem.priors, ranks, strict=True)):
        nothing = jnp.zeros(len(prior.x), dtype)
        q = _condition(prior, Sites(nothing, nothing))
        draws = prior.sample(jax.random.fold_in(key, mode), q, prior.x, rank).T
        zeros = jnp.zeros_like(draws)
        factors.append(Factor(draws, zeros, Sites(zeros, zeros), jnp.zeros(rank, dtype)))
    weights = None
    if core:
        size = math.prod(ranks)
        draw = jax.random.normal(jax.random.fold_in(key, len(ranks)), tuple(ranks), dtype)
        weights = Core(draw, jnp.zeros((size, size), dtype))
    one = jnp.ones((), dtype)
    return State(tuple(factors), weights, one, one * 0.1 * scale)
