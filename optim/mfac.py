"""M-FAC: the inverse of a Fisher matrix that is made of gradients."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from optim.tree import divide, limit_norm, norm
from optim.vectors import Point, momentum_average, vector_transformation


class MfacState(NamedTuple):
    """The method's part of the state of `mfac`; no rows if they are those of examples.

    Attributes:
      rows: gradients, of unit norm.
      norms: of the gradients.
      gram: of the rows.
      momentum: running mean of the updates.
    """

    rows: Float[Array, "M D"]
    norms: Float[Array, " M"]
    gram: Float[Array, "M M"]
    momentum: Float[Array, " D"]


def mfac(
    learning_rate: optax.ScalarOrSchedule,
    *,
    rows: Literal["gradients", "per_example"] = "gradients",
    num_rows: int = 32,
    damping: float = 1e-5,
    relative_damping: float = 1e-2,
    momentum: float = 0.9,
    max_change: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps preconditioned by the inverse of an empirical Fisher matrix of rank M.

    .. math::

       x_{k+1} = x_k - ρ m_k, \qquad m_k = β m_{k-1} + (1-β) \hat F^{-1} g_k, \qquad
       \hat F = λ I + \frac1M \sum_i g_i g_i^T, \qquad
       \hat F^{-1} G^T c = M\, G^T (M λ I + G G^T)^{-1} c

    with rows G that are the last M gradients, the present one included, or the gradients of the
    M examples of a loss that declares ``per_example`` (data, or Monte Carlo draws). In the span
    of the rows, where gradients of the window lie, the inverse is taken in the form above, which
    subtracts nothing; what a multiple of the examples' mean does not explain of the gradient,
    such as a prior's part, takes Woodbury's.
    λ is ``damping``, the paper's, plus ``relative_damping`` times the mean of the diagonal of
    the sum, which is ours.

    The empirical Fisher matrix is not the Hessian. Of a loss whose gradients are mostly noise it
    is the covariance of the noise; of one without noise it vanishes at the optimum, where steps
    of a constant rate cycle until ``damping`` takes over. On problems of
    ``benchmarks/optimizers.py``, with a cosine schedule of a rate that had to be looked for
    between 0.3 and 30, it ended 12 nats behind tuned Adam on the Gaussian, 112 on cancer, 0.03 on
    schools, 0.2 on Poisson, 1.4 on the network, and about even with fixed draws; it did not get
    away from a start with gradients of 1e9.

    Args:
      learning_rate: ρ, a number or a schedule.
      rows: where the rows come from.
      num_rows: M; for "per_example" the number of examples.
      damping: the part of λ in absolute units, those of squared gradients.
      relative_damping: the other part, as a share of the mean of the diagonal.
      momentum: β; the average is free of its bias to zero.
      max_change: bound on the root mean square of the entries of F⁻¹ g.

    Returns:
      A transformation that needs ``params``, and, for "per_example", ``value_fn``.

    Raises:
      ValueError: if ``rows`` is unknown; at the first update, if there are not ``num_rows``
        examples.

    Complexity:
      O(M D + M³) time, and for "per_example" M reverse passes and O(M² D); O(M D) memory.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from optim import mfac
      >>> optimizer, x = mfac(0.5, num_rows=4, damping=1.0), jnp.array([1.0, -1.0])
      >>> state = optimizer.init(x)
      >>> for _ in range(200):
      ...     updates, state = optimizer.update(jnp.array([1.0, 100.0]) * x, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> bool(jnp.abs(x).max() < 0.1)
      True

    Reference: Frantar, Kurtic and Alistarh (2021), "M-FAC: efficient matrix-free approximations
    of second-order information"; the direct form of its Section 3, which equals the dynamic
    algorithm.
    """
    if rows not in ("gradients", "per_example"):
        raise ValueError(f"mfac: expected rows 'gradients' or 'per_example'; got {rows!r}.")

    window = num_rows if rows == "gradients" else 0

    def init(x: Float[Array, " D"], _: Callable) -> MfacState:
        rows, gram = jnp.zeros((window, len(x)), x.dtype), jnp.zeros((window, window), x.dtype)
        return MfacState(rows, gram[0] if window else x[:0], gram, jnp.zeros_like(x))

    def of_gradients(g: Array, state: MfacState, at: Point) -> MfacState:
        oldest = at.count % num_rows
        size = norm(g)
        unit = divide(g, size)
        new = state.rows.at[oldest].set(unit)
        products = new @ unit
        gram = state.gram.at[oldest].set(products).at[:, oldest].set(products)
        return MfacState(new, state.norms.at[oldest].set(size), gram, state.momentum)

    def of_examples(state: MfacState, at: Point) -> MfacState:
        grads = at.oracle.per_example_grads(at.x)
        if len(grads) != num_rows:
            raise ValueError(
                f"mfac: expected per_example of the loss to give num_rows={num_rows} losses; got "
                f"{len(grads)}. Pass num_rows={len(grads)}."
            )
        norms = jax.vmap(norm)(grads)
        unit = divide(grads, norms[:, None])
        return MfacState(unit, norms, unit @ unit.T, state.momentum)

    def step(g: Array, state: MfacState, at: Point) -> tuple[Array, MfacState]:
        if rows == "gradients":
            fisher = of_gradients(g, state, at)
            size = jnp.minimum(at.count + 1, num_rows).astype(g.dtype)
            coefficients = jnp.arange(num_rows) == at.count % num_rows
            rest = None
        else:
            fisher = of_examples(state, at)
            size = jnp.asarray(num_rows, g.dtype)
            mean = fisher.norms / num_rows @ fisher.rows
            length = norm(mean)
            share_of_mean = divide(g @ divide(mean, length), length)
            coefficients = jnp.full(num_rows, share_of_mean / num_rows)
            rest = g - share_of_mean * mean
            rounding = 16 * jnp.finfo(g.dtype).eps * norm(g)
            rest = jnp.where(norm(rest) > rounding, rest, 0)  # divided by λ, it would be all
        # In units of the largest norm, so that squares do not overflow.
        unit = jnp.maximum(jnp.max(fisher.norms), damping**0.5)
        share = divide(fisher.norms, unit)
        gram = share[:, None] * fisher.gram * share
        absolute = divide(divide(jnp.asarray(damping, g.dtype), unit), unit)
        lam = absolute + relative_damping * jnp.trace(gram) / (size * len(g))
        values, vectors = jnp.linalg.eigh(gram)
        scale = jnp.maximum(values, 0) + size * jnp.where(unit > 0, lam, 1)
        inverse = lambda v: vectors @ ((v @ vectors) / scale)
        direction = (share * size * inverse(coefficients.astype(g.dtype))) @ fisher.rows
        if rest is not None:
            rest = divide(rest, unit)
            inner = inverse(share * (fisher.rows @ rest))
            direction += divide(rest - (share * inner) @ fisher.rows, lam)
        direction = limit_norm(divide(direction, unit), max_change * len(g) ** 0.5)
        average, mean = momentum_average(state.momentum, direction, momentum, at.count)
        kept = fisher if rows == "gradients" else state
        return mean, kept._replace(momentum=average)

    needs = None if rows == "gradients" else ("per_example",)
    return vector_transformation("mfac", init, step, learning_rate, needs=needs)
