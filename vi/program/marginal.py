"""Guides whose density is estimated: auxiliary sites are marginalised by importance sampling."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError
from vi.program.bounds import log_mean_exp


class Marginal:
    """A hierarchical guide with its auxiliary sites marginalised; made by `marginal`."""

    def __init__(
        self,
        guide: Callable,
        auxiliary: tuple[str, ...],
        proposal: Callable,
        num_particles: int,
    ):
        self.guide, self.auxiliary = guide, auxiliary
        self.proposal, self.num_particles = proposal, num_particles

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Run the guide; one factor puts the estimated density in place of the joint one."""
        import numpyro
        from numpyro.handlers import trace

        with trace() as sites:
            self.guide(*args, **kwargs)
        latent = {name: s for name, s in sites.items() if _is_latent(s)}
        self._check(latent)
        values = {name: site["value"] for name, site in latent.items()}
        kept = {name: x for name, x in values.items() if name not in self.auxiliary}
        u = {name: values[name] for name in self.auxiliary}
        params, joint = _params(sites), _log_prob(latent)
        proposed = _run(self.proposal, (kept, *args), kwargs, u, visible=True)
        first = joint - _log_prob({n: s for n, s in proposed.items() if _is_latent(s)})
        log_w = first[None]
        if self.num_particles > 1:
            known = _params(proposed)

            def weight(key: Array) -> Array:
                found = _run(self.proposal, (kept, *args), kwargs, known, key=key)
                new = {n: s for n, s in found.items() if _is_latent(s)}
                self._check_proposal(new)
                given = {**params, **kept, **{n: s["value"] for n, s in new.items()}}
                there = _run(self.guide, args, kwargs, given)
                log_q = _log_prob({n: s for n, s in there.items() if _is_latent(s)})
                return log_q - _log_prob(new)

            keys = jax.random.split(numpyro.prng_key(), self.num_particles - 1)
            log_w = jnp.concatenate([log_w, jax.vmap(weight)(keys)])
        numpyro.factor("_marginal", log_mean_exp(log_w) - joint)

    def _check(self, latent: dict) -> None:
        missing = sorted(set(self.auxiliary) - latent.keys())
        if missing or any(site["cond_indep_stack"] for site in latent.values()):
            wrong = f"no site {missing}" if missing else "sites in a plate"
            raise TargetError(
                f"vi.marginal: expected a guide with the auxiliary sites {list(self.auxiliary)} "
                f"and no plates; it has {wrong}. Name its own sites, and write plates as batch "
                "dimensions with to_event."
            )

    def _check_proposal(self, found: dict) -> None:
        fixed = sorted(n for n, s in found.items() if not s["fn"].has_rsample)
        if set(found) != set(self.auxiliary) or fixed:
            raise TargetError(
                f"vi.marginal: expected a proposal that draws exactly the auxiliary sites "
                f"{list(self.auxiliary)} from reparameterised distributions; it draws "
                f"{sorted(found)}, of which {fixed} are not reparameterised."
            )


def marginal(
    guide: Callable,
    *,
    auxiliary: Sequence[str],
    proposal: Callable,
    num_particles: int = 1,
) -> Marginal:
    r"""A hierarchical guide: some of its sites only shape the law of the others.

    The guide draws auxiliary sites u and sites z of the model jointly. With a proposal r(u | z)
    and M auxiliaries, of which the first is the one z was drawn with and the others are proposed,

    .. math:: \log \hat q(z) = \log \tfrac1M \sum_{m=1}^M \frac{q(u_m, z)}{r(u_m \mid z)}

    takes the place of the density of z. Its reciprocal is unbiased for :math:`1/q(z)`, so that any
    bound stays a bound. With `vi.elbo`, M = 1 is hierarchical variational inference (HVI) and
    M > 1 its importance-weighted form (IWHVI); with `vi.iwae` it is the doubly importance-weighted
    one (DIWHVI).

    Args:
      guide: a NumPyro guide without plates.
      auxiliary: names of its sites that the model does not have.
      proposal: called as ``proposal(z, *args, **kwargs)`` with a dictionary of the other sites;
        draws the auxiliary sites. May have parameters.
      num_particles: M.

    Returns:
      A guide, for `vi.SVI` or ``numpyro.infer.SVI`` with an objective as the loss.

    Raises:
      TargetError: when run, if sites are missing, in plates, or the proposal is not
        reparameterised.

    Complexity: M evaluations of the guide and the proposal for each draw.

    References: Ranganath, Tran and Blei (2016), "Hierarchical variational models"; Sobolev and
    Vetrov (2019), "Importance weighted hierarchical variational inference", equation 6.

    Example:
      >>> import jax, numpyro, numpyro.distributions as dist, optax, vi
      >>> def model():
      ...     numpyro.sample("z", dist.StudentT(3.0))
      >>> def guide():
      ...     u = numpyro.sample("u", dist.Normal(0.0, 1.0))
      ...     spread = numpyro.param("spread", 0.1)
      ...     numpyro.sample("z", dist.Normal(spread * u, 1.0))
      >>> def proposal(z):
      ...     numpyro.sample("u", dist.Normal(0.0, 1.0))
      >>> wide = vi.marginal(guide, auxiliary=["u"], proposal=proposal, num_particles=5)
      >>> svi = vi.SVI(model, wide, optax.adam(0.02), vi.elbo(num_particles=4))
      >>> result = svi.run(jax.random.key(0), 10, progress_bar=False)
      >>> result.losses.shape
      (10,)
    """
    if num_particles < 1:
        raise ValueError(f"vi.marginal: expected num_particles >= 1; got {num_particles}.")
    return Marginal(guide, tuple(auxiliary), proposal, num_particles)


def _run(
    program: Callable,
    args: tuple,
    kwargs: dict,
    given: dict,
    *,
    key: Array | None = None,
    visible: bool = False,
) -> dict:
    """Trace a program apart from the handlers around it; its parameters may stay visible."""
    from numpyro.handlers import block, seed, substitute, trace

    hidden = block(hide_fn=lambda site: not visible or site["type"] != "param")
    with hidden:
        seeded = seed(substitute(program, data=given), jax.random.key(0) if key is None else key)
        return trace(seeded).get_trace(*args, **kwargs)


def _is_latent(site: dict) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def _params(sites: dict) -> dict[str, Array]:
    return {name: site["value"] for name, site in sites.items() if site["type"] == "param"}


def _log_prob(sites: dict) -> Array:
    parts = [jnp.sum(site["fn"].log_prob(site["value"])) for site in sites.values()]
    return sum(parts[1:], start=parts[0])
