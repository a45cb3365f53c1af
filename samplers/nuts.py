"""NUTS in the coordinates of a variational approximation."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from samplers.algorithms import NUTS
from samplers.chains import Chains
from samplers.mcmc import mcmc
from vi import Posterior, Target


def nuts(
    model: Callable | Target,
    *args: Any,
    key: Array,
    start: Posterior | None = None,
    num_samples: int = 1000,
    num_chains: int = 4,
    num_warmup: int | None = None,
    target_acceptance: float = 0.8,
    mesh: Mesh | None = None,
    progress: bool | None = None,
    callback: Callable | None = None,
    checkpoint: Any = None,
    **kwargs: Any,
) -> Chains:
    r"""Sample a posterior by the no-U-turn sampler, started and scaled by an approximation.

    The chains run in the noise x of the approximation, z = T(x), where the posterior is nearly a
    unit normal if the approximation is good: for a Gaussian q, :math:`z = m + L x`; for a flow, the
    flow. They start at draws of q chosen by their importance weights. Warm-up has only the step
    size and the residual variances of x left to find, pooled over chains, so it is short; draws are
    of the posterior itself, however poor q is, and the verdict on them is by R-hat, effective
    sample sizes and divergences.

    Args:
      model: a NumPyro model, a log density (`vi.target`), or a `vi.Target`.
      *args: arguments of the model: its data.
      key: a key from `jax.random.key`.
      start: a posterior of the same model from `vi.fit`, best of the same data; by default one is
        fitted. The draws are of this call's data whatever the start's were.
      num_samples: number S of draws of each chain, after warm-up.
      num_chains: number C of chains.
      num_warmup: transitions of each chain that are thrown away, rounded up to whole windows of
        50; by default 150 where the verdict on ``start`` is good or fair, else 500.
      target_acceptance: mean acceptance rate that the step size is adapted to; higher is slower
        and follows sharper curvature.
      mesh: devices that share the chains, from `jax.make_mesh`; best as many chains as devices.
      progress: show a progress bar; by default in a terminal, if the run takes over a second.
      callback: called as ``callback(step, state, info)`` between windows; true stops.
      checkpoint: a file; the state is saved there between windows, and a call that finds it
        continues the run with the same result as if it had not been interrupted.
      **kwargs: keyword arguments of the model.

    Returns:
      The chains. ``print(chains.verdict)`` says whether to trust them.

    Raises:
      ValueError: for numbers that mean nothing.
      TypeError: if ``start`` is no posterior, or of another model.
      NonFiniteTargetError: if the density is not finite at any draw of ``start``.

    Complexity:
      A gradient for each leapfrog step, about 3 to 15 a transition in good coordinates; O(C S D)
      memory. On a CPU chains run one after another; a step of the chain costs one gradient and
      O(D²) for a full-rank start.

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, samplers
      >>> def model(y):
      ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
      ...     numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)
      >>> chains = samplers.nuts(model, jnp.arange(5.0), key=jax.random.key(0), num_samples=200)
      >>> chains.draws()["mu"].shape
      (4, 200)

    Reference:
      Hoffman and Gelman (2014), "The No-U-Turn Sampler: adaptively setting path lengths in
      Hamiltonian Monte Carlo", in blackjax's multinomial, iterative form; coordinates as in Hoffman
      et al. (2019), "NeuTra-lizing bad geometry in Hamiltonian Monte Carlo using neural transport".
    """
    return mcmc(
        model, *args, key=key, algorithm=NUTS(), start=start, num_samples=num_samples,
        num_chains=num_chains, num_warmup=num_warmup, target_acceptance=target_acceptance,
        mesh=mesh, progress=progress, callback=callback, checkpoint=checkpoint, **kwargs,
    )  # fmt: skip
