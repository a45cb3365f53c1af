"""What a prior back-end is: a law of the latent values at the data, to be conditioned on sites."""

from typing import Any, NamedTuple, Protocol

from jaxtyping import Array, Float

from gp.sites import Sites


class Conditional(NamedTuple):
    r"""The prior conditioned on sites: q(f) at the data, and what it is predicted from.

    Attributes:
      mean: of q, shape ``(N,)``.
      variance: of q, shape ``(N,)``.
      kl: KL(q ‖ p), nats, shape ``()``.
      log_normalizer: the pseudo-evidence, as of `Prior.log_normalizer`.
      jitter: what was added to prior variances to make them positive definite, shape ``()``.
      factor: what the back-end predicts from; a pytree.
    """

    mean: Float[Array, " N"]
    variance: Float[Array, " N"]
    kl: Float[Array, ""]
    log_normalizer: Float[Array, ""]
    jitter: Float[Array, ""]
    factor: Any


class Prior(Protocol):
    r"""The law of N latent values, in one of several representations; a `vi.module.module`.

    A back-end is a noun of a kernel, a mean, the inputs and what the host has made of them (orders,
    neighbours, inducing inputs), all of them leaves: other hyperparameters or data of the same
    shapes compile nothing. `condition` and `log_normalizer` run inside `jax.jit`; `predict` and
    `sample` are called on the host, may look up neighbours there, and compile what they need.
    Where a matrix is not positive definite whatever the jitter, they return NaN. A back-end whose
    host work depends on the kernel has ``refreshed(kernel)``, which returns it with another kernel
    and, if that has moved points too far, with another ``graph``. One that is not exact may have
    ``cautions(conditional)``, sentences for the verdict, any of which makes it fair at best. One
    that can take KL(q ‖ p) of a given q with derivatives in kernel and mean, cheaper than
    `log_normalizer`, has ``divergence(conditional)``.
    """

    kernel: Any
    mean: Any
    x: Float[Array, "N D"]

    def condition(self, sites: Sites) -> Conditional:
        """q(f) ∝ p(f) ∏ t_i(f_i), at the data."""
        ...

    def log_normalizer(self, sites: Sites) -> Float[Array, ""]:
        r"""The pseudo-evidence, differentiable in kernel, mean and sites.

        .. math:: \log \int p(f) \prod_i e^{-λ_{2i} (f_i - λ_{1i}/λ_{2i})^2 / 2} df

        This is the log normaliser of prior times sites less
        :math:`\tfrac12 \sum_i λ_{1i}^2/λ_{2i}`, which does not depend on the prior and would cost
        digits.
        """
        ...

    def predict(
        self, conditional: Conditional, x_new: Float[Array, "M D"], *, full_cov: bool = False
    ) -> tuple[Array, Array]:
        """Means ``(M,)`` and variances ``(M,)`` of the function, or its covariance ``(M, M)``."""
        ...

    def sample(
        self, key: Array, conditional: Conditional, x_new: Float[Array, "M D"], num_samples: int
    ) -> Float[Array, "S M"]:
        """Joint draws of the function."""
        ...

    def anchored(
        self, key: Array, conditional: Conditional, sites: Sites, path: Any
    ) -> tuple[Array, Array]:
        """How data move draws of the prior: inputs z, and weights of k(x, z) for each draw.

        Inside `jax.jit`. ``path(x)`` gives draws of the prior less its mean, shape ``(S, N)``.
        """
        ...
