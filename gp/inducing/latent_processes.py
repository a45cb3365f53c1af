"""Inducing variables of latent processes that outputs mix, at shared or separate inputs."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float

from gp.inducing.interdomain import Features
from gp.kernels.coregional import Coregional
from vi.module import module, static


@module
class LatentInputs(Features):
    r"""Values of the latent processes of a `gp.Coregional` kernel at inducing inputs.

    .. math:: u_{qm} = g_q(z_{qm}), \qquad \mathrm{cov}(u_{qm}, f_p(x)) = W_{pq}\, k_q(z_{qm}, x)

    With Q latent processes of far fewer than P outputs this takes fewer variables than inducing
    values of the outputs themselves, and none of them is of one output alone.

    Attributes:
      z: inputs without the column of outputs: ``(M, D)``, shared by all processes, or
        ``(Q, M, D)``, separate for each.
      processes: Q.

    Complexity:
      As Q M inducing inputs.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> kernel = gp.coregional(gp.Matern(), num_outputs=4, num_latents=2)
      >>> shared = gp.LatentInputs.of(kernel, jnp.linspace(0.0, 1.0, 5)[:, None])
      >>> len(shared), shared.covariance(kernel).shape
      (10, (10, 10))

    Reference: van der Wilk, Dutordoir, John, Artemev, Adam and Hensman (2020), "A framework for
    interdomain and multioutput Gaussian processes".
    """

    z: Float[Array, "*Q M D"]
    processes: int = static()

    @classmethod
    def of(cls, kernel: Coregional, z: Float[Array, "*Q M D"]) -> "LatentInputs":
        """Inducing inputs for a kernel's latent processes.

        Raises:
          ValueError: if they are of another shape, or of other processes.
        """
        z, count = jnp.asarray(z), len(kernel.kernels)
        if z.ndim not in (2, 3) or (z.ndim == 3 and len(z) != count):
            raise ValueError(
                f"LatentInputs: expected inducing inputs of shape (M, D), shared, or ({count}, M, "
                f"D), for each latent process; got {z.shape}."
            )
        return cls(z, count)

    def __len__(self) -> int:
        """Q M."""
        return self.processes * self.z.shape[-2]

    def _each(self, kernel: Any) -> list[tuple[Any, Array]]:
        if not isinstance(kernel, Coregional) or len(kernel.kernels) != self.processes:
            raise ValueError(
                f"LatentInputs: expected a gp.Coregional kernel of {self.processes} processes; got "
                f"{kernel!r}."
            )
        z = jnp.broadcast_to(self.z, (self.processes, *self.z.shape[-2:]))
        return list(zip(kernel.kernels, z, strict=True))

    def covariance(self, kernel: Any) -> Array:
        """Covariances: processes are independent."""
        return block_diag(*(one(z, z) for one, z in self._each(kernel)))

    def cross(self, kernel: Any, x: Float[Array, "B D"]) -> Array:
        """Covariances with outputs."""
        pairs = self._each(kernel)
        mixing = kernel.mixing(x)
        parts = [mixing[:, q] * one(z, x[:, :-1]) for q, (one, z) in enumerate(pairs)]
        return jnp.concatenate(parts)
