r"""Objectives with a penalty on the aggregated posterior of a batch: InfoVAE, MMD-VAE."""

from typing import Any

import jax
import jax.numpy as jnp

from vi.distances.kernels import KernelName, kernel, mmd
from vi.errors import TargetError
from vi.program.bound import Penalised
from vi.program.objective import objective
from vi.program.requirements import Requirement


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
