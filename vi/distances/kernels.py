"""Kernels of squared distance, and the discrepancies that they make."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.distances.shapes import samples

KernelName = Literal["rbf", "imq"]
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def kernel(name: KernelName, dim: int) -> Callable[[Array], Array]:
    r"""A kernel as a function of squared distance, with bandwidths that grow with the dimension.

    ``"rbf"``: :math:`e^{-d²/(2D)}`. ``"imq"``: :math:`\sum_s c_s/(c_s + d²)`, :math:`c_s = 2Ds`
    for s from 0.1 to 10.

    Args:
      name: of the kernel.
      dim: D, of the points.

    Returns:
      The kernel.
    """
    if name == "rbf":
        return lambda squared: jnp.exp(-squared / (2 * dim))
    if name == "imq":
        return lambda squared: sum(2 * dim * s / (2 * dim * s + squared) for s in _SCALES)  # type: ignore[return-value]
    raise ValueError(f"kernel: expected 'rbf' or 'imq'; got {name!r}. Choose one of the two.")


def mmd(x: Float[Array, "N D"], y: Float[Array, "M D"], k: Callable[[Array], Array]) -> Array:
    r"""Squared maximum mean discrepancy between two samples, without bias.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{N(N-1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{M(M-1)}
        - \frac{2 \sum_{i,j} k(x_i, y_j)}{NM}

    Args:
      x: sample, N ≥ 2.
      y: sample, M ≥ 2.
      k: kernel of the squared distance.

    Returns:
      Shape ``()``; may be negative.

    Raises:
      ValueError: for samples of one point.

    Complexity: O((N + M)² D) time, O((N + M)²) memory.

    Reference: Gretton, Borgwardt, Rasch, Schölkopf and Smola (2012), "A kernel two-sample test",
    lemma 6.
    """
    x, y = samples("mmd", x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(
            f"mmd: expected at least two points in each sample; got {len(x)} and {len(y)}. Take a "
            "larger batch."
        )

    def mean(a: Array, b: Array, *, same: bool) -> Array:
        squared = jnp.sum((a[:, None] - b[None]) ** 2, -1)
        n, m = squared.shape
        if not same:
            return jnp.mean(k(squared))
        return jnp.sum(jnp.where(jnp.eye(n, dtype=bool), 0, k(squared))) / (n * (m - 1))

    return mean(x, x, same=True) + mean(y, y, same=True) - 2 * mean(x, y, same=False)


def kernel_stein(
    x: Float[Array, "N D"],
    scores: Float[Array, "N D"],
    k: Callable[[Array], Array] | None = None,
    *,
    unbiased: bool = False,
) -> Array:
    r"""Squared kernel Stein discrepancy between a sample and a density known by its score.

    With s = ∇ log p and :math:`k(x, y) = \varphi(|x - y|^2)`, the mean over pairs of

    .. math:: s(x)^T s(y)\,k + s(x)^T ∇_y k + s(y)^T ∇_x k + \operatorname{tr} ∇_x ∇_y k .

    Zero in the limit exactly if the sample is of p, for the default kernel also if p is only
    tight; the density's normaliser is not needed.

    Args:
      x: sample.
      scores: gradients of log p at the rows of ``x``.
      k: kernel φ of the squared distance, twice differentiable; by default the inverse multiquadric
        :math:`(1 + d²)^{-1/2}` in the units of ``x``.
      unbiased: leave out the pairs of a point with itself, so that the mean over samples of p is
        zero; it may then be negative. Without, it is never negative.

    Returns:
      Shape ``()``.

    Raises:
      ValueError: if shapes differ, or for fewer than two points with ``unbiased``.

    Complexity: O(N² D) time, O(N²) memory.

    Reference: Gorham and Mackey (2017), "Measuring sample quality with kernels"; Liu,
    Lee and Jordan (2016), "A kernelized Stein discrepancy for goodness-of-fit tests".

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from vi.distances import kernel_stein
      >>> x = jax.random.normal(jax.random.key(0), (500, 2))
      >>> right, wrong = kernel_stein(x, -x), kernel_stein(x, -x / 4)
      >>> bool(right < 0.02), bool(wrong > 0.1)
      (True, True)
    """
    if x.ndim != 2 or x.shape != scores.shape or (unbiased and len(x) < 2):
        raise ValueError(
            "kernel_stein: expected points and scores of one shape (N, D), N at least 2 if "
            f"unbiased; got {x.shape} and {scores.shape}. Map the score over the rows of x."
        )
    if k is None:
        k = lambda squared: jax.lax.rsqrt(1 + squared)
    n, dim = x.shape
    squared = jnp.sum((x[:, None] - x[None]) ** 2, -1)
    slope = lambda r: jax.jvp(k, (r,), (jnp.ones_like(r),))[1]
    curve = jax.jvp(slope, (squared,), (jnp.ones_like(squared),))[1]
    first = slope(squared)
    own = jnp.sum(x * scores, -1)
    crossed = x @ scores.T  # x_i . s_j
    toward = own[:, None] - crossed.T - crossed + own[None]  # (x_i - x_j).(s_i - s_j)
    pairs = scores @ scores.T * k(squared) - 2 * first * toward
    pairs = pairs - 4 * curve * squared - 2 * dim * first
    if not unbiased:
        return jnp.mean(pairs)
    return jnp.sum(jnp.where(jnp.eye(n, dtype=bool), 0, pairs)) / (n * (n - 1))
