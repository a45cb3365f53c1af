"""A Gaussian process as a part of a NumPyro model: a latent function among other sites."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gp.inducing.algebra import basis, features
from gp.means import Zero


def latent(
    name: str,
    kernel: Any,
    x: Float[Array, "N D"],
    *,
    mean: Any = None,
    inducing: Float[Array, "M D"] | None = None,
) -> Float[Array, " N"]:
    r"""Sample the values of a Gaussian process at inputs, inside a NumPyro model.

    .. math:: v \sim N(0, I), \qquad f = μ(x) + k(x, z)\, L^{-T} v, \qquad L L^T = k(z, z)

    The site is ``{name}_white``, whitened, so that it suits any of `vi.fit`'s families and any
    sampler, whatever the hyperparameters, which may be sites themselves; ``name`` is a
    deterministic site of the values. Without inducing inputs z are the inputs x, and f is the
    process itself. With them it is its projection onto them: what they do not explain is left out,
    which understates variances away from them. `latent_at` predicts.

    Args:
      name: of the values.
      kernel: the kernel; its hyperparameters may be draws of other sites.
      x: inputs, shape ``(N, D)``.
      mean: the mean function; zero if None.
      inducing: z.

    Returns:
      The values.

    Raises:
      ValueError: if inputs are not of shape ``(N, D)``.

    Complexity:
      O(N³), or O(N M² + M³) with M inducing inputs.

    Example:
      >>> import gp, jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
      >>> def model(x, y=None):
      ...     scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
      ...     rate = jnp.exp(gp.latent("f", gp.Matern(scale), x))
      ...     numpyro.sample("y", dist.Poisson(rate), obs=y)
      >>> with numpyro.handlers.seed(rng_seed=0):
      ...     trace = numpyro.handlers.trace(model).get_trace(jnp.linspace(0.0, 1.0, 5)[:, None])
      >>> [name for name in trace if trace[name]["type"] == "sample"]
      ['scale', 'f_white', 'y']
    """
    import numpyro
    import numpyro.distributions as dist

    x = _points(x, "x")
    z = x if inducing is None else _points(inducing, "inducing")
    tril, _ = basis(kernel, z)
    law = dist.Normal(jnp.zeros(len(z), tril.dtype), 1.0).to_event(1)
    white = numpyro.sample(f"{name}_white", law)
    a = tril.T if inducing is None else features(kernel, z, tril, x)
    return jnp.asarray(numpyro.deterministic(name, (mean or Zero())(x) + white @ a))


def latent_at(
    x_new: Float[Array, "Q D"],
    white: Float[Array, " M"],
    kernel: Any,
    x: Float[Array, "M D"],
    *,
    mean: Any = None,
) -> tuple[Float[Array, " Q"], Float[Array, " Q"]]:
    r"""The law of the process at new inputs, given one draw of a `latent`.

    .. math:: N\big(μ(x_*) + a^T v,\; k(x_*, x_*) - \|a\|^2\big), \qquad a = L^{-1} k(z, x_*)

    Args:
      x_new: new inputs.
      white: the draw of ``{name}_white``; map over draws with `jax.vmap`.
      kernel: with the hyperparameters of that draw.
      x: the inputs of `latent`, or its inducing inputs.
      mean: the mean function; zero if None.

    Returns:
      Means and variances, each of shape ``(Q,)``.

    Complexity:
      O(M³ + Q M²) a draw.

    Example:
      >>> import gp, jax.numpy as jnp
      >>> x = jnp.asarray([[0.0], [1.0]])
      >>> mean, variance = gp.latent_at(jnp.asarray([[9.0]]), jnp.ones(2), gp.Matern(), x)
      >>> round(float(variance[0]), 3)
      1.0
    """
    x, x_new = _points(x, "x"), _points(x_new, "x_new")
    tril, _ = basis(kernel, x)
    a = features(kernel, x, tril, x_new)
    variance = jnp.maximum(kernel.diagonal(x_new) - jnp.sum(a**2, 0), 0.0)
    return (mean or Zero())(x_new) + white @ a, variance


def _points(x: Any, name: str) -> Array:
    x = jnp.asarray(x)
    if x.ndim != 2:
        raise ValueError(
            f"gp.latent: expected inputs of shape (N, D); got {name} of shape {x.shape}. For one "
            f"coordinate give {name}[:, None]."
        )
    return x
