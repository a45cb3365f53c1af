r"""Objectives with a penalty on the aggregated posterior of a batch: InfoVAE, MMD-VAE."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.errors import TargetError
from vi.program.bound import Penalised
from vi.program.objective import objective
from vi.program.requirements import Requirement

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


@objective(
    requires={
        "alpha": Requirement("<= 1", lambda x: x <= 1),
        "kernel_name": Requirement("'rbf' or 'imq'", lambda x: x in ("rbf", "imq")),
    }
)
def info_vae(
    p: Any,
    q: Any,
    *,
    site: str,
    alpha: float = 0.0,
    strength: float = 1.0,
    kernel_name: KernelName = "imq",
    num_particles: int = 1,
) -> Penalised:
    r"""InfoVAE: the ELBO, with mutual information rewarded and the aggregated posterior penalised.

    .. math:: \sum_i \big(E_q \log p(x_i \mid z_i) - (1 - α) KL(q(z \mid x_i) \| p(z))\big)
        - N (α + λ - 1)\,\mathrm{MMD}^2(q(z), p(z))

    with q(z) the mean of q(z | x_i) over the data, estimated from the batch by a U-statistic.
    α = 0, λ = 1 is the ELBO, α = 1 the MMD-VAE; with a guide of points (Delta) and α = 1 it is
    the Wasserstein autoencoder. For local latents under a plate, reparameterised.

    Args:
      p: view of the model.
      q: view of the guide.
      site: name of the local latent site.
      alpha: α, at most 1.
      strength: λ, with α + λ ≥ 1.
      kernel_name: ``"imq"`` or ``"rbf"``.
      num_particles: draws for each datum.

    Returns:
      Estimate, nats, and penalty for each datum.

    Raises:
      ValueError: if α is more than 1 or α + λ less.
      TargetError: if guide and model do not share a local latent site of that name.

    Reference: Zhao, Song and Ermon (2019), "InfoVAE: balancing learning and inference in
    variational autoencoders", equation 6; kernels as in Tolstikhin, Bousquet, Gelly and Schölkopf
    (2018), "Wasserstein auto-encoders".
    """
    if alpha + strength < 1:
        raise ValueError(
            f"info_vae: expected alpha + strength >= 1; got {alpha} + {strength}. Raise strength."
        )
    z = q.sample(num_particles)
    prior, log_q = p.log_prior(z), q.log_density(z)
    value = jnp.mean(p.log_density(z) - log_q + alpha * (log_q - prior))
    if z[site].ndim < 2:
        raise TargetError(
            f"info_vae: expected a local latent site, in a plate, whose rows are the data; site "
            f"{site!r} is one for all. Name another, or put it into the plate."
        )
    ours = z[site].reshape(num_particles, z[site].shape[1], -1)
    theirs = p.sample_prior(num_particles)[site].reshape(ours.shape)
    k = kernel(kernel_name, ours.shape[-1])
    distance = jnp.mean(jax.vmap(lambda a, b: mmd(a, b, k))(ours, theirs))
    return Penalised(value, (alpha + strength - 1) * distance)
