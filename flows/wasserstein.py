"""Wasserstein gradient flows of laws, by steps of maps that are kept."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from flows.compose import Chain, Stack
from flows.contractive import Residual
from flows.convex import ConvexGradient
from flows.flow import Flow
from flows.functionals import Functional
from flows.layer import stop
from flows.linear import GaussianMap
from flows.networks import Network, initial_parameters
from optim import eval_params, extragradient, saddle_gradient, two_timescale
from vi.compile import quick_jit
from vi.families import Gaussian
from vi.random import fast_key, host_generator

TITLE = "Wasserstein flow"
TIMESCALE = 2.0  # of the map beside the critic
FIRST = 3  # times that the first map is trained, with what comes of it as a start
LAST = 0.02  # share of the learning rate that is left at the end of a step
RATES = {"critic": 5e-3, "density": 2e-2}  # of Adam
MOMENTA = {"critic": 0.5, "density": 0.9}  # first ones, of Adam


@dataclasses.dataclass(frozen=True)
class WassersteinFlow:
    """What `wasserstein_flow` returns: the laws after each step, and how the steps went.

    Attributes:
      flow: the law after the last step, with draws and density.
      values: estimates of the functional after each step, shape ``(K,)``.
      moved: squared transport cost of each step, shape ``(K,)``.
      skipped: updates of each step that were not finite and were not made, shape ``(K,)``.
      step_size: of the steps: the law after k of them is that of time ``k * step_size``.
    """

    flow: Flow
    values: np.ndarray
    moved: np.ndarray
    skipped: np.ndarray
    step_size: float

    def at(self, k: int) -> Flow:
        """The law after k steps, 0 for the start.

        Raises:
          ValueError: if there were not so many steps.
        """
        if not 0 <= k <= len(self.values):
            raise ValueError(
                f"WassersteinFlow.at: expected a step from 0 to {len(self.values)}; got {k}."
            )
        *first, last = self.flow.layers.layers
        cut = Stack(jax.tree.map(lambda x: x[:k], last.layer))
        return dataclasses.replace(self.flow, layers=Chain((*first, cut)))


def wasserstein_flow(
    functional: Functional,
    start: Gaussian | Flow | Any,
    *,
    key: Array,
    step_size: float = 0.1,
    num_steps: int = 10,
    layer: Literal["convex", "residual"] = "convex",
    estimate: Literal["critic", "density"] = "critic",
    hidden: Sequence[int] = (32, 32),
    critic_hidden: Sequence[int] = (64, 64),
    num_inner: int = 300,
    batch_size: int = 256,
    num_draws: int = 4096,
    learning_rate: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> WassersteinFlow:
    r"""Descend a functional of laws in the Wasserstein space by JKO steps.

    .. math:: P_{k+1} = (T_k)_\# P_k, \qquad
        T_k = \arg\min_T \frac{1}{2a} E_{P_k} |x - T(x)|^2 + F(T_\# P_k)

    For small a it follows the gradient flow of F, whatever the parameters of the maps: for
    `flows.relative_entropy` to p it is the law of Langevin dynamics, without noise, at time k a.
    F is not known for a law given by draws, so each step is a game of the map against a critic,
    :math:`F(P) = \sup_u F(P, u)`, see `flows.relative_entropy`, `flows.SampleRelativeEntropy`,
    `flows.JensenShannon` and `flows.generalized_entropy`; it is played by extragradient steps with
    Adam's scaling, the map slower than the critic. All maps are kept: draws and densities of every
    P_k come from them, by their log-determinants and inverses.

    With ``estimate="density"`` these log-determinants take the critic's place, where F is a
    function of the density: more exact, and dearer in high dimensions, except for convex maps of
    one hidden layer with H < D units, whose log-determinants cost O(H³). A critic falls short of
    the supremum, and more so the farther P is from the reference: against a Gaussian one, laws that
    are narrow within their covariance come out too narrow. Where P has to part into modes, short
    steps keep the mass of each; a long one gives it to few of them.

    Args:
      functional: F.
      start: P_0: a `vi.Gaussian`, a flow without context, or any distribution of vectors that is a
        pytree with ``sample(seed=, sample_shape=)`` and ``log_prob``.
      key: a key.
      step_size: a, in the squared units of x over those of F.
      num_steps: K.
      layer: the maps: ``"convex"``, gradients of input-convex networks, as optimal maps are, or
        ``"residual"``, the identity plus a contraction, cheaper.
      estimate: as above.
      hidden: units of the hidden layers of a map; of the first one alone for ``"residual"``.
      critic_hidden: of the critic.
      num_inner: extragradient steps for each map, each of two batches, or half of the steps of
        Adam; the first of the K steps takes three times as many.
      batch_size: draws of a batch.
      num_draws: draws of P_k that are made for a step, from which batches are taken.
      learning_rate: of Adam, falling by a cosine within each step; if not given, 0.005 against a
        critic and 0.02 without.
      optimizer: of the pair of map and critic, in place of the default, which is
        ``extragradient(two_timescale(adam, 2))``, or Adam alone where there is no critic; it is
        given the gradients of `optim.saddle_gradient`, and asked by `optim.eval_params`.

    Returns:
      The flow.

    Raises:
      ValueError: for numbers or a layer that mean nothing, or where the functional does not know
        densities and they are asked for.
      TypeError: if ``start`` is no law.

    Complexity:
      ``4 K num_inner batch_size`` evaluations of map, critic and F and their gradients, and
      ``K²/2 num_draws`` maps; a density costs K inverses of O(D³).

    Reference: Fan, Zhang, Taghvaei and Chen (2022), "Variational Wasserstein gradient flow",
    Algorithm 1; Jordan, Kinderlehrer and Otto (1998), "The variational formulation of the
    Fokker-Planck equation"; inner steps by Chae, Kim and Kim (2024), "Two-timescale extragradient
    for finding local minimax points".

    Example:
      >>> import jax, jax.numpy as jnp, flows, vi
      >>> def two_modes(x):
      ...     return jnp.logaddexp(-jnp.sum((x - 2.0) ** 2), -jnp.sum((x + 2.0) ** 2))
      >>> found = flows.wasserstein_flow(
      ...     flows.relative_entropy(two_modes), vi.mean_field(1), key=jax.random.key(0),
      ...     step_size=0.5, num_steps=3, num_inner=100, batch_size=128, num_draws=512,
      ... )
      >>> bool(found.values[-1] < found.values[0]), found.at(1).sample(jax.random.key(1), 5).shape
      (True, (5, 1))
    """
    first = _start(start)
    numbers = {"step_size": step_size, "num_steps": num_steps, "num_inner": num_inner}
    rate = RATES.get(estimate, 0.0) if learning_rate is None else learning_rate
    numbers |= {"batch_size": batch_size, "num_draws": num_draws, "learning_rate": rate}
    wrong = {name: value for name, value in numbers.items() if not value > 0}
    if wrong or layer not in ("convex", "residual") or estimate not in RATES:
        raise ValueError(
            "wasserstein_flow: expected positive numbers, layer 'convex' or 'residual', and "
            f"estimate 'critic' or 'density'; got {wrong or (layer, estimate)}."
        )
    generator, dtype = host_generator(key, 21), np.dtype(first.dtype)
    if layer == "convex":
        made: Any = ConvexGradient.initial(generator, first.dim, tuple(hidden), dtype)
    else:
        made = Residual.initial(generator, first.dim, hidden[0], 0, dtype)
    sizes = (first.dim, *critic_hidden, 1)
    players = made, Network(*initial_parameters(generator, sizes, dtype))
    stacked = jax.tree.map(lambda x: jnp.zeros((num_steps, *x.shape), x.dtype), made)
    advance = _compiled(estimate, num_inner, batch_size, num_draws, rate, optimizer)
    told = np.zeros((num_steps, 3))
    for n, k in enumerate([0] * (FIRST - 1) + list(range(num_steps))):
        words = fast_key(jax.random.fold_in(key, n))
        players, stacked, *looks = advance(
            words, np.int32(k), players, stacked, functional, first, step_size
        )
        told[k] = looks
    values, moved, skipped = told.T
    flow = dataclasses.replace(first, layers=Chain((*first.layers.layers, Stack(stacked))))
    return WassersteinFlow(flow, values, moved, skipped.astype(int), step_size)


def _start(start: Any) -> Flow:
    """A law as a flow whose affine map is a layer, so that others can follow it."""
    if isinstance(start, Gaussian):
        if start.scale.noise_dim != start.dim:
            raise TypeError(
                "wasserstein_flow: expected a Gaussian of as many noise coordinates as dimensions; "
                "got one of low rank. Use vi.full_rank or vi.mean_field."
            )
        start = Flow.of_gaussian(start)
    if isinstance(start, Flow) and not start.context_dim:
        after = () if start.affine is None else (GaussianMap(start.affine),)
        layers = Chain((start.layers, *after))
        return dataclasses.replace(start, layers=layers, affine=None, title=TITLE)
    if isinstance(start, Flow) or not (hasattr(start, "sample") and hasattr(start, "log_prob")):
        raise TypeError(
            "wasserstein_flow: expected a start with sample and log_prob, without a context; got "
            f"{type(start).__name__}. Use vi.mean_field(dim) or a flow."
        )
    dim = start.sample(seed=jax.random.key(0), sample_shape=1).shape[-1]
    base = jax.tree.map(jnp.asarray, start)
    return Flow(Chain(()), None, None, base, dim, title=TITLE)


@functools.lru_cache(maxsize=32)
def _compiled(
    estimate: str,
    num_inner: int,
    batch_size: int,
    num_draws: int,
    learning_rate: float,
    optimizer: optax.GradientTransformation | None,
) -> Any:
    """One JKO step, compiled."""
    if optimizer is None:
        rates = optax.cosine_decay_schedule(learning_rate, 2 * num_inner, LAST)
        adam = optax.adam(rates, b1=MOMENTA[estimate], b2=0.99)
        if estimate == "critic":
            optimizer = extragradient(two_timescale(adam, TIMESCALE))
        else:
            optimizer = optax.apply_if_finite(adam, 2 * num_inner)
    critical = estimate == "critic"

    def push(k: Array, stacked: Any, x: Array, log_q: Array) -> tuple[Array, Array]:
        """Through the first k maps."""

        def through(i: Array, carry: tuple) -> tuple:
            y, log_det = jax.tree.map(lambda a: a[i], stacked).forward_and_log_det(carry[0])
            return (y, carry[1] if critical else carry[1] - log_det)

        return jax.lax.fori_loop(0, k, through, (x, log_q))

    def advance(
        key: Array,
        k: Array,
        players: tuple,
        stacked: Any,
        functional: Functional,
        first: Flow,
        step_size: Float[Array, ""],
    ) -> tuple:
        draw_key, batch_key, look_key = jax.random.split(key, 3)
        x, log_q = first.draw_and_log_prob(first.noise(draw_key, num_draws))
        x, log_q = push(k, stacked, x, log_q)
        reference = stop(functional.reference(x))

        def objective(
            layer: Any, critic: Network, x: Array, log_q: Array, key: Array
        ) -> tuple[Array, Array]:
            """F after the map, and the mean squared distance that it moves."""
            y, log_det = layer.forward_and_log_det(x)
            squared = jnp.mean(jnp.sum((y - x) ** 2, -1))
            if not critical:
                return functional.on_density(y, log_q - log_det), squared
            drawn = functional.draw(key, reference, len(x))
            look = lambda z: critic(reference.whiten(z))[:, 0]
            return functional.value(reference, y, look(y), look(drawn)), squared

        def step(carry: tuple, key: Array) -> tuple[tuple, None]:
            players, state = carry
            choose_key, reference_key = jax.random.split(key)
            chosen = jax.random.randint(choose_key, (batch_size,), 0, num_draws)

            def loss(layer: Any, critic: Network) -> Array:
                value, squared = objective(layer, critic, x[chosen], log_q[chosen], reference_key)
                return value + squared / (2 * step_size)

            _, gradient = saddle_gradient(loss)(players)
            updates, state = optimizer.update(gradient, state, players)
            return (optax.apply_updates(players, updates), state), None

        start = players, optimizer.init(players)
        (players, state), _ = jax.lax.scan(step, start, jax.random.split(batch_key, 2 * num_inner))
        solution: Any = eval_params(state, players)
        layer, critic = solution
        value, squared = objective(layer, critic, x, log_q, look_key)
        stacked = jax.tree.map(lambda a, b: a.at[k].set(b), stacked, layer)
        skipped = [_skipped(s) for s in jax.tree.leaves(state, is_leaf=_counts) if _counts(s)]
        return solution, stacked, value, squared, sum(skipped, start=jnp.zeros((), jnp.int32))

    return quick_jit(advance)


def _counts(state: Any) -> bool:
    return isinstance(state, optax.ApplyIfFiniteState) or hasattr(type(state), "skipped")


def _skipped(state: Any) -> Array:
    """Updates that were not made, as optax and as `optim` count them."""
    found = isinstance(state, optax.ApplyIfFiniteState)
    return state.total_notfinite if found else state.skipped
