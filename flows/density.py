"""Density estimation: a flow by maximum likelihood, with rows held out to say when to stop."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from flows.flow import Flow
from flows.layer import stop
from optim import clip_by_ema_norm
from vi.compile import quick_jit
from vi.families import Gaussian
from vi.families.scale import DenseScale
from vi.random import fast_key, host_generator

CHUNK = 100  # steps between looks at the rows held out
CLIP = 1.5  # running norms of the gradient
JITTER = 1e-6  # of a column's variance, added to it


class DensityFit(NamedTuple):
    """A flow fitted to data, and how it went.

    Attributes:
      flow: as it was after the chunk that was best on the rows held out; where no chunk was
        better than the start, the Gaussian, and then ``log_likelihood == gaussian``.
      log_likelihood: of the rows held out, nats a row; the flow was chosen by it.
      gaussian: the same of the Gaussian that the flow started from.
      history: the same after every chunk of 100 steps.
      num_steps: steps taken.
      settled: whether it had stopped rising before the steps ran out.
    """

    flow: Flow
    log_likelihood: float
    gaussian: float
    history: np.ndarray
    num_steps: int
    settled: bool


def fit_density(
    flow: Flow,
    data: Float[Array, "N D"],
    *,
    key: Array,
    context: Float[Array, "N C"] | None = None,
    scores: Float[Array, "N D"] | None = None,
    num_steps: int = 5000,
    batch_size: int = 256,
    learning_rate: float = 5e-3,
    held_out: float = 0.1,
    patience: int = 10,
) -> DensityFit:
    r"""Fit a flow to data by maximum likelihood.

    .. math:: \max_q \tfrac1N \sum_n \log q(x_n \mid c_n)

    The flow starts as the Gaussian of the data's mean and covariance, and is trained in its
    coordinates by Adam on minibatches, with clipped gradients and a rate that falls by a cosine.
    After every 100 steps it is evaluated on rows held out. The best flow by them is returned, the
    Gaussian among the candidates, and the run ends early when ``patience`` looks in a row have
    found no better one.

    Where the rows are draws of a density that is known up to a constant, as from a sampler, its
    gradients there make the path gradient possible, which is free of noise where the flow is
    exact:

    .. math:: \nabla_φ E_p[-\log q_φ(x)] = E_p\big[(\partial_φ T_φ(z))^T
        (\nabla_x \log q_φ - \nabla_x \log p)(x)\big], \quad z = T_φ^{-1}(x)

    Args:
      flow: made by a factory such as `flows.maf`, whose density costs one pass.
      data: N rows, floating.
      key: a key; draws the rows held out and the minibatches.
      context: of each row, for a flow with ``context_dim``.
      scores: :math:`\nabla_x \log p` at each row, shape ``(N, D)``; the rows must be draws of p.
        For flows with both directions cheap, as `flows.neural_spline` and `flows.realnvp`.
      num_steps: at most.
      batch_size: rows of a step, drawn with replacement.
      learning_rate: at first.
      held_out: share of the rows.
      patience: looks without a better flow.

    Returns:
      The fit.

    Raises:
      ValueError: if the data do not have D columns, are not finite, or are too few to hold any out.

    Complexity:
      ``num_steps * batch_size`` densities and their gradients, and N * ``held_out`` densities a
      look.

    Example:
      >>> import jax, jax.numpy as jnp, flows
      >>> x = jax.random.normal(jax.random.key(0), (500, 2))
      >>> q = flows.realnvp(2, key=jax.random.key(1), num_layers=2, hidden=(8,))
      >>> fit = flows.fit_density(q, x.at[:, 1].add(x[:, 0] ** 2), key=jax.random.key(2),
      ...                         num_steps=400)
      >>> fit.log_likelihood > fit.gaussian
      True

    Reference: Papamakarios, Pavlakou and Murray (2017), "Masked autoregressive flow for density
    estimation", section 4; for the path gradient Vaitl, Winkler, Richter and Kessel (2024), "Fast
    and unified path gradient estimators for normalizing flows", section 5.
    """
    rows = np.asarray(data)
    if rows.ndim != 2 or rows.shape[1] != flow.size or not np.isfinite(rows).all():
        raise ValueError(
            f"fit_density: expected finite data of shape (N, {flow.size}); got shape {rows.shape}. "
            "Drop or fill missing rows, and make the flow with the data's number of columns."
        )
    count = round(held_out * len(rows))
    if not 0 < count < len(rows) - flow.size:
        raise ValueError(
            f"fit_density: expected a row held out and more than {flow.size} others; got {count} "
            f"of {len(rows)}. Choose held_out between 0 and 1, or use more data."
        )
    order = host_generator(key, 12).permutation(len(rows))
    known = tuple(None if x is None else np.asarray(x) for x in (context, scores))
    if known[1] is not None and known[1].shape != rows.shape:
        raise ValueError(
            f"fit_density: expected a score for each row, shape {rows.shape}; got shape "
            f"{known[1].shape}. Give jax.vmap(jax.grad(log_density))(data)."
        )
    pick = lambda index: (rows[index], *(None if x is None else x[index] for x in known))
    test, train = pick(order[:count]), pick(order[count:])
    q = flow.around(_gaussian(train[0]))
    train, test = jax.tree.map(lambda x: jnp.asarray(x, q.dtype), (train, test))
    init, advance = _compiled(num_steps, learning_rate, batch_size)
    state = init(q.layers)
    look = lambda layers: float(_held_out(_with(q, layers), *test[:2]))
    best, best_layers = look(q.layers), q.layers
    gaussian, history, layers, step, waited = best, [], q.layers, 0, 0
    while step < num_steps and waited < patience:
        layers, state = advance(fast_key(key), np.int32(step), layers, state, q, train)
        step = min(step + CHUNK, num_steps)
        history.append(look(layers))
        waited += 1
        if history[-1] > best:
            best, best_layers, waited = history[-1], layers, 0
    fitted = _with(q, best_layers)
    return DensityFit(fitted, best, gaussian, np.asarray(history), step, waited >= patience)


def _gaussian(rows: np.ndarray) -> Gaussian:
    """Of the rows' mean and covariance, in their precision."""
    wide = rows.astype(float)
    covariance = np.atleast_2d(np.cov(wide.T))
    variances = np.diag(covariance)
    covariance = covariance + JITTER * np.diag(np.where(variances > 0, variances, 1.0))
    root = np.linalg.cholesky(covariance)
    dtype = jnp.result_type(rows.dtype, jnp.float32)
    return Gaussian(jnp.asarray(wide.mean(0), dtype), DenseScale.of(jnp.asarray(root, dtype)))


def _with(q: Flow, layers: Any) -> Flow:
    return dataclasses.replace(q, layers=layers)


def _log_likelihood(q: Flow, rows: Array, context: Array | None) -> Array:
    return jnp.mean((q if context is None else q.given(context)).log_prob(rows))


def path_loss(
    q: Flow, rows: Float[Array, "B D"], scores: Float[Array, "B D"], context: Array | None
) -> Float[Array, ""]:
    """A function whose gradient is the path gradient of minus the mean log likelihood.

    Its value means nothing.
    """
    q = q if context is None else q.given(context)
    noise, _ = stop(q).inverse_and_log_det(rows)
    x, _, score = q.draw_and_score(stop(noise))
    return jnp.mean(jnp.sum(x * stop(score - scores), axis=-1))


_held_out = quick_jit(_log_likelihood)


@functools.lru_cache(maxsize=32)
def _compiled(num_steps: int, learning_rate: float, batch_size: int) -> tuple[Any, Any]:
    """The optimizer's init, and a compiled chunk of steps."""
    rates = optax.cosine_decay_schedule(learning_rate, num_steps)
    optimizer = optax.chain(clip_by_ema_norm(CLIP), optax.adam(rates))

    def chunk(
        key: Array, first: Array, layers: Any, state: Any, q: Flow, train: tuple
    ) -> tuple[Any, Any]:
        rows, context, scores = train

        def step(carry: tuple, t: Array) -> tuple[tuple, None]:
            layers, state = carry
            chosen = jax.random.randint(jax.random.fold_in(key, t), (batch_size,), 0, len(rows))
            given = None if context is None else context[chosen]

            def loss(layers: Any) -> Array:
                if scores is None:
                    return -_log_likelihood(_with(q, layers), rows[chosen], given)
                return path_loss(_with(q, layers), rows[chosen], scores[chosen], given)

            updates, new_state = optimizer.update(jax.grad(loss)(layers), state, layers)
            new = optax.apply_updates(layers, updates), new_state
            finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(new[0])]
            good = jnp.all(jnp.stack(finite)) & (t < num_steps)
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, carry), None

        return jax.lax.scan(step, (layers, state), first + jnp.arange(CHUNK))[0]

    return quick_jit(optimizer.init), quick_jit(chunk)
