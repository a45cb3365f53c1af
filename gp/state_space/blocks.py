r"""Kalman filters and smoothers on blocks of time side by side, joined by what each block does.

Arrays have the place in a block first and the blocks last, ``(T, ..., B)``, so that one step of a
scan over T moves all blocks at once. A block is a map of the law of the state before it; the laws
between blocks follow by a scan over B such maps, after which all blocks can run to their ends.

With the precision λ of a site and :math:`d = h^T P h` before it, :math:`w = λ/(1 + λ d)` is the
inverse variance of its innovation e, zero where there is no datum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Chain(NamedTuple):
    """Steps of a process, and what is observed after each, by place and block."""

    transition: Float[Array, "T s s B"]
    noise: Float[Array, "T s s B"]
    precision: Float[Array, "T B"]
    centre: Float[Array, "T B"]


class Summary(NamedTuple):
    r"""What blocks do to the state before them, of law N(m, P).

    .. math::

       p(z' | z) = N(A z + b, C), \qquad
       \log p(\mathrm{block} | z) = c + η^T z - \tfrac12 z^T J z

    Attributes:
      gain: A.
      shift: b.
      noise: C.
      linear: η.
      precision: J.
      constant: c.
    """

    gain: Float[Array, "s s B"]
    shift: Float[Array, "s B"]
    noise: Float[Array, "s s B"]
    linear: Float[Array, "s B"]
    precision: Float[Array, "s s B"]
    constant: Float[Array, " B"]


class Law(NamedTuple):
    """Means and covariances of a state; of many, on first axes, and on a last one of blocks."""

    mean: Float[Array, "*T s B"]
    covariance: Float[Array, "*T s s B"]


class Future(NamedTuple):
    r"""What later data do to a state of law N(m, P): mean :math:`m + P r`, covariance P - P N P."""

    slope: Float[Array, "*T s B"]  # r
    bend: Float[Array, "*T s s B"]  # N


def multiply(a: Float[Array, "*T i j B"], b: Float[Array, "*T j k B"]) -> Float[Array, "*T i k B"]:
    """Products of small matrices, many at once, as a sum of few vectorised terms."""
    terms = [a[..., :, j, None, :] * b[..., j, None, :, :] for j in range(a.shape[-2])]
    return sum(terms[1:], terms[0])


def transposed(a: Float[Array, "*T i j B"]) -> Float[Array, "*T j i B"]:
    """Transposes of small matrices whose last axis is a batch, here and below in this file."""
    return jnp.swapaxes(a, -2, -3)


def congruence(a: Float[Array, "*T i j B"], p: Float[Array, "*T j j B"]) -> Array:
    """Products A P Aᵀ: what a linear map makes of covariances P, for each of a batch of B."""
    return multiply(multiply(a, p), transposed(a))


def times(a: Float[Array, "*T i j B"], v: Float[Array, "*T j B"]) -> Float[Array, "*T i B"]:
    """Products A v of small matrices and vectors, for each of a batch of B on the last axis."""
    return multiply(a, v[..., None, :])[..., 0, :]


def outer(a: Float[Array, "*T i B"], b: Float[Array, "*T j B"]) -> Float[Array, "*T i j B"]:
    """Outer products a bᵀ of small vectors, for each of a batch of B on the last axis."""
    return a[..., :, None, :] * b[..., None, :, :]


def seen(z: Float[Array, "s ..."], observed: tuple[int, ...]) -> Float[Array, "..."]:
    """The sum of the observed components, those of the first axis."""
    return sum((z[i] for i in observed[1:]), z[observed[0]])


def summarise(chain: Chain, observed: tuple[int, ...]) -> Summary:
    """What each block does; one filter from a known state, with the state's columns beside it."""
    size, width = chain.transition.shape[1], chain.transition.shape[-1]
    dtype = chain.centre.dtype
    identity = jnp.eye(size + 1, dtype=dtype)[:size, :, None]
    last = jnp.zeros((size + 1, 1), dtype).at[-1].set(1.0)

    def step(carry: tuple, now: Chain) -> tuple[tuple, None]:
        columns, cov, info, log_det = carry
        columns = multiply(now.transition, columns)
        cov = congruence(now.transition, cov) + now.noise
        g = seen(cov, observed)
        grown = 1 + now.precision * seen(g, observed)
        w = now.precision / grown
        e = last * now.centre - seen(columns, observed)
        columns = columns + outer(g, w * e)
        cov = cov - outer(g, w * g)
        return (columns, cov, info + outer(e, w * e), log_det + jnp.log(grown)), None

    wide = lambda a: jnp.broadcast_to(a, (*a.shape[:-1], width))
    zeros = lambda *shape: jnp.zeros((*shape, width), dtype)
    start = wide(identity), zeros(size, size), zeros(size + 1, size + 1), zeros()
    (columns, cov, info, log_det), _ = jax.lax.scan(step, start, chain)
    return Summary(
        gain=columns[:, :size],
        shift=columns[:, size],
        noise=cov,
        linear=-info[:size, size],
        precision=info[:size, :size],
        constant=-0.5 * (info[size, size] + log_det),
    )


def entering(summary: Summary, start: Law) -> tuple[Law, Float[Array, ""]]:
    """The law of the state before each block given the blocks before, and the log evidence."""
    size = summary.shift.shape[0]

    def step(law: Law, block: Summary) -> tuple[Law, tuple]:
        mean, cov = law
        rest = block.linear - block.precision @ mean
        # (I + P J)⁻¹ of P and of P (η - J m), from one factorisation.
        mixed = jnp.eye(size, dtype=mean.dtype) + cov @ block.precision
        both = jnp.concatenate([cov, (cov @ rest)[:, None]], 1)
        solved = jnp.linalg.solve(mixed, both)
        inner, move = 0.5 * (solved[:, :size] + solved[:, :size].T), solved[:, size]
        log_det = jnp.linalg.slogdet(mixed)[1]
        value = block.constant + 0.5 * (block.linear + rest) @ mean + 0.5 * rest @ move
        new_mean = block.gain @ (mean + move) + block.shift
        new_cov = block.gain @ inner @ block.gain.T + block.noise
        return Law(new_mean, 0.5 * (new_cov + new_cov.T)), (law, value - 0.5 * log_det)

    blocks = jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), summary)
    _, (laws, values) = jax.lax.scan(step, start, blocks)
    return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), laws), jnp.sum(values)


def leaving(summary: Summary, before: Law) -> Future:
    """What the data after each block do to the state after it.

    Args:
      summary: of the blocks.
      before: laws before each block, whose next are the laws after each.
    """
    size = summary.shift.shape[0]
    eye = jnp.eye(size, dtype=summary.shift.dtype)

    def step(ahead: tuple[Array, Array], now: tuple) -> tuple[tuple, Future]:
        """Likelihoods as functions of the state: from after a block to before it."""
        block, (mean, cov) = now
        linear, precision = ahead
        inverse = jnp.linalg.inv(eye + precision @ block.noise)
        linear = inverse @ (linear - precision @ block.shift)
        precision = inverse @ precision
        linear = block.linear + block.gain.T @ linear
        precision = block.precision + block.gain.T @ precision @ block.gain
        precision = 0.5 * (precision + precision.T)
        inverse = jnp.linalg.inv(eye + precision @ cov)
        bend = inverse @ precision
        future = Future(inverse @ (linear - precision @ mean), 0.5 * (bend + bend.T))
        return (linear, precision), future

    blocks = jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), (summary, before))
    nothing = jnp.zeros_like(eye[0]), jnp.zeros_like(eye)
    _, futures = jax.lax.scan(step, nothing, blocks, reverse=True)
    later = lambda a: jnp.moveaxis(jnp.concatenate([a[1:], jnp.zeros_like(a[:1])]), 0, -1)
    return jax.tree.map(later, futures)


def filtered(chain: Chain, before: Law, observed: tuple[int, ...]) -> tuple[Law, Law]:
    """Laws of the states before and after each datum, given those before; ``(T, ..., B)``."""

    def step(law: Law, now: Chain) -> tuple[Law, tuple[Law, Law]]:
        mean = times(now.transition, law.mean)
        cov = congruence(now.transition, law.covariance) + now.noise
        g = seen(cov, observed)
        w = now.precision / (1 + now.precision * seen(g, observed))
        e = now.centre - seen(mean, observed)
        after = Law(mean + g * (w * e), cov - outer(g, w * g))
        return after, (Law(mean, cov), after)

    _, laws = jax.lax.scan(step, before, chain)
    return laws


def smoothed(
    chain: Chain, predicted: Law, after: Law, ahead: Future, observed: tuple[int, ...]
) -> tuple[Future, Array, Array]:
    """What data do to the states predicted before them, and the smoothed function.

    Args:
      chain: steps and data.
      predicted: laws before each datum.
      after: laws after each datum.
      ahead: what the blocks after each block do to the state after it.
      observed: components of the function.

    Returns:
      The future of each predicted state, its own datum included; means and variances of the
      function given all data, ``(T, B)``. There is no inverse of a covariance in it.
    """

    def step(ahead: Future, now: tuple) -> tuple[Future, tuple]:
        (transition, _, precision, centre), mean, cov, known = now
        gain = seen(known.covariance, observed)
        value = seen(known.mean, observed) + jnp.sum(gain * ahead.slope, 0)
        spread = seen(gain, observed) - jnp.sum(gain * times(ahead.bend, gain), 0)
        g = seen(cov, observed)
        w = precision / (1 + precision * seen(g, observed))
        e = centre - seen(mean, observed)
        # Through the datum by (I - w h gᵀ), and the datum's own part.
        bent = times(ahead.bend, g)
        slope = _add(ahead.slope, w * (e - jnp.sum(g * ahead.slope, 0)), observed)
        cross = w * bent
        bend = _add(ahead.bend, -cross, observed)
        bend = _add(jnp.swapaxes(bend, 0, 1), -cross, observed)
        bend = _corner(bend, w * (1 + w * jnp.sum(g * bent, 0)), observed)
        here = Future(slope, bend)
        back = transposed(transition)
        return Future(times(back, slope), congruence(back, bend)), (here, value, spread)

    _, found = jax.lax.scan(step, ahead, (chain, *predicted, after), reverse=True)
    return found


def _add(a: Array, row: Array, observed: tuple[int, ...]) -> Array:
    """Add h rowᵀ (or h times a scalar) to matrices (or vectors)."""
    rows = [a[i] + row if i in observed else a[i] for i in range(len(a))]
    return jnp.stack(rows)


def _corner(a: Array, value: Array, observed: tuple[int, ...]) -> Array:
    """Add h hᵀ times a scalar to matrices."""
    size = len(a)
    row = jnp.stack([value if i in observed else jnp.zeros_like(value) for i in range(size)])
    return _add(a, row, observed)
