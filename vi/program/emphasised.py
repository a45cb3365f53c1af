r"""ELBOs whose likelihood and prior count differently: for few data, functions and views.

All weigh :math:`E_q[\log p(y \mid z)]` against :math:`KL(q(z) \| p(z))`: with a prior that is
fitted, a density of functions in place of one of data, or a prior that is a slow copy of q.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.errors import TargetError
from vi.program.objective import objective
from vi.program.requirements import NOT_NEGATIVE


@objective(requires={"emphasis": NOT_NEGATIVE})
def data_emphasised_elbo(
    p: Any,
    q: Any,
    *,
    emphasis: float | Array,
    profiled: Sequence[Sequence[str]] = (),
    num_particles: int = 1,
) -> Float[Array, ""]:
    r"""ELBO whose likelihood counts κ times; for NumPyro models.

    .. math:: κ\,E_q[\log p(x \mid z)] - KL(q(z) \| p(z))

    With κ = 1 the ELBO; with κ = D/N (D parameters, N data) the emphasis of the reference, which
    lets a network with few data learn its prior's variances; κ < 1 is the β-VAE of β = 1/κ, up
    to a factor.

    Prior variances can be at their optimum at every step: for a group of sites with priors
    :math:`N(m_d, λ s_d^2)`, with the means and scales of the model, D numbers in all,

    .. math:: λ^* = \frac1D \sum_d \frac{E_q[(z_d - m_d)^2]}{s_d^2}, \qquad
        KL^* = KL|_{λ=1} + \tfrac D2 (\log λ^* + 1 - λ^*) .

    The gradient is that at fixed λ*, since λ* is a stationary point.

    Args:
      p: view of the model.
      q: view of the guide.
      emphasis: κ > 0.
      profiled: groups of names of sites, each with a multiple λ of its own; their priors must
        be normal, and in the guide their laws must not depend on other sites.
      num_particles: draws the expectation is estimated with.

    Returns:
      Unbiased estimate, nats.

    Raises:
      TargetError: for profiled sites of another kind.
      ValueError: if ``emphasis`` is not positive.

    Reference: Harvey, Petrov and Hughes (2025), "Learning the regularization strength for deep
    fine-tuning via a data-emphasized variational objective".

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax, vi
      >>> from numpyro.infer.autoguide import AutoNormal
      >>> def model(x, y):
      ...     w = numpyro.sample("w", dist.Normal(jnp.zeros(3), 1.0).to_event(1))
      ...     numpyro.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)
      >>> x = jax.random.normal(jax.random.key(0), (20, 3))
      >>> bound = vi.data_emphasised_elbo(emphasis=3 / 20, profiled=[["w"]])
      >>> svi = vi.SVI(model, AutoNormal(model), optax.adam(0.01), bound)
      >>> result = svi.run(jax.random.key(1), 10, x, x[:, 0], progress_bar=False)
      >>> result.losses.shape
      (10,)
    """

    def one(z: Any) -> Array:
        value = emphasis * p.log_likelihood(z) - (q.kl(z) if profiled else _gap(p, q, z))
        for group in profiled:
            squares, count = (q.by_site(f, z, group, fixed=True) for f in (_squares, _count))
            value = value - 0.5 * (count * jnp.log(squares / count) + count - squares)
        return value

    return q.expect(one, num_particles)


@objective(requires={"beta": NOT_NEGATIVE})
def functional_elbo(
    p: Any, q: Any, *, beta: float | Array = 1.0, num_particles: int = 1
) -> Float[Array, ""]:
    r"""ELBO of a model of functions observed in white noise (VANO); for NumPyro models.

    .. math:: E_q\Big[\log \frac{dP_{D(z)}}{dP_0}(u)\Big] - β\,KL(q(z \mid u) \| p(z))

    The density is that of the function u with mean D(z) against pure noise (`cameron_martin`, as
    a factor of the model): unlike a density of values on a grid it has a limit as the grid is
    refined. The divergence is in closed form where there is one.

    Args:
      p: view of the model.
      q: view of the guide.
      beta: β >= 0, the variance of the noise of the observations, up to a factor of the objective.
      num_particles: draws the expectation is estimated with.

    Returns:
      Unbiased estimate, nats.

    Reference: Seidman, Kissas, Pappas and Perdikaris (2023), "Variational autoencoding neural
    operators".
    """
    return q.expect(lambda z: p.log_likelihood(z) - beta * q.kl(z), num_particles)


def cameron_martin(
    decoded: Float[Array, "*B M"], observed: Float[Array, "*B M"], weights: Float[Array, " M"]
) -> Float[Array, "*B"]:
    r"""Log density of a function in unit white noise, against the noise alone.

    .. math:: \langle u, D \rangle - \tfrac12 \|D\|^2
        \approx \sum_j ω_j \big(u(x_j) D(x_j) - \tfrac12 D(x_j)^2\big)

    Args:
      decoded: D at M points, leading axes are functions.
      observed: u at the same points.
      weights: ω of a quadrature over the domain; 1/M for uniform points in the unit interval.

    Returns:
      One number for each function, nats; for ``numpyro.factor``.
    """
    return jnp.sum(weights * (observed - 0.5 * decoded) * decoded, -1)


@objective
def momentum_teacher(p: Any, q: Any, *, num_particles: int = 1) -> Float[Array, ""]:
    r"""Self-supervised views: a student posterior against the posterior of a slow teacher.

    .. math:: E_{q(z \mid x_2)}[\log p_t(z \mid x_1)] - KL(q(z \mid x_2) \| p_t(z \mid x_1))

    The model is the teacher: its latent sites are normal with mean and scale that the teacher
    gives for one view, with parameters that are arguments, not ``param`` sites. The guide is the
    student on the other view. After each step the teacher follows, ``optax.incremental_update(
    student, teacher, 1 - momentum)``. The first term is what scores a student's sample under the
    teacher; it equals minus the entropy less the divergence, and both are in closed form where
    there is one. It is not a bound on any evidence. For a loss symmetric in the views, put both
    orders into one plate.

    Args:
      p: view of the model, the teacher.
      q: view of the guide, the student.
      num_particles: draws, where there is no closed form.

    Returns:
      Unbiased estimate, nats.

    Reference: Yavuz and Yanıkoğlu (2025), "Variational self-supervised learning", without its
    cosine forms.
    """
    return q.expect(lambda z: -q.entropy(z) - 2 * q.kl(z), num_particles)


def _gap(p: Any, q: Any, z: Any) -> Array:
    return q.log_density(z) - p.log_prior(z)


def _squares(ours: Any, theirs: Any) -> Array:
    """Mean squared distance from the prior's mean, in its standard deviations, by row."""
    import numpyro.distributions as dist

    from vi.program.rules import unwrap

    if not isinstance(unwrap(theirs), dist.Normal):
        raise TargetError(
            "data_emphasised_elbo: expected profiled sites with normal priors; got "
            f"{type(unwrap(theirs)).__name__}. Write the prior as Normal, or leave the site out."
        )
    found = ((ours.mean - theirs.mean) ** 2 + ours.variance) / theirs.variance
    return found.sum(tuple(range(-ours.event_dim, 0))) if ours.event_dim else found


def _count(ours: Any, theirs: Any) -> Array:
    """Numbers in a row of the site."""
    del theirs
    size = jnp.size(jnp.zeros(ours.event_shape))
    return jnp.full(ours.batch_shape, float(size))
