"""Guides made of unnormalised programs: one of several candidates, drawn by its weight."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError
from vi.program.bounds import log_mean_exp
from vi.program.marginal import estimated_factor, latents, params_of, run, scored
from vi.program.requirements import COUNT, check_options
from vi.program.tempering import REQUIRES, Particles, Tempering, check_supports, temper

CANDIDATES, CANDIDATE, CHOSEN = "_candidates", "candidate", "_chosen"


class Normalized:
    """A program normalised by importance resampling or by SMC; made by `normalize`."""

    def __init__(
        self,
        program: Callable,
        proposal: Callable,
        num_particles: int,
        tempering: Tempering | None = None,
    ):
        self.program, self.proposal, self.num_particles = program, proposal, num_particles
        self.tempering = tempering

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Draw candidates, choose one, and put the estimated density in place of theirs."""
        import numpyro
        import numpyro.distributions as dist
        from numpyro.handlers import block, infer_config, scope, substitute, trace

        first = run(self.proposal, args, kwargs, {}, visible=True)
        shapes = {name: jnp.shape(site["value"]) for name, site in latents(first).items()}
        given = {name: site["value"] for name, site in latents(first).items()}
        program = run(self.program, args, kwargs, given, visible=True)
        self._check(latents(program), latents(first), program)
        depth = max(len(site["fn"].batch_shape) for site in latents(first).values())
        count, params = self.num_particles, params_of(first)
        hidden = block(substitute(self.proposal, data=params), hide=[*params])
        plate = numpyro.plate(CANDIDATES, count, dim=-1 - depth)
        with trace() as found, plate, scope(prefix=CANDIDATE, hide_types=["param", "plate"]):
            infer_config(hidden, config_fn=scored)(*args, **kwargs)
        new = {name.removeprefix(CANDIDATE + "/"): s for name, s in latents(found).items()}
        values = {n: s["value"].reshape(count, *shapes[n]) for n, s in new.items()}
        each = [s["fn"].log_prob(s["value"]).reshape(count, -1).sum(-1) for s in new.values()]
        log_r = sum(each[1:], start=each[0])
        at = lambda z: run(self.proposal, args, kwargs, {**params, **z})

        def density(z: dict) -> Array:
            return _total(run(self.program, args, kwargs, {**params_of(program), **z}))

        if self.tempering is None:
            log_p = jax.vmap(density)(values)
            log_w = log_p - log_r
            found = Particles(values, log_p, log_w, log_mean_exp(log_w), jnp.zeros(()))
        else:
            check_supports(lambda **z: latents(at(z)), given)
            supports = {name: site["fn"].support for name, site in latents(first).items()}
            both = lambda z: (_total(latents(at(z))), density(z))
            found = temper(self.tempering, values, supports, both)
        index = numpyro.sample(CHOSEN, dist.Categorical(logits=found.log_w))
        for name, x in found.values.items():
            numpyro.sample(name, dist.Delta(x[index], event_dim=x.ndim - 1))
        chosen = jax.nn.log_softmax(found.log_w)[index]
        log_q = found.log_p[index] - found.log_normaliser
        estimated_factor("_normalized", log_q - log_r.sum() - found.log_q - chosen)

    def _check(self, latent: dict, proposed: dict, program: dict) -> None:
        if latent.keys() != proposed.keys() or not proposed:
            raise TargetError(
                f"vi.normalize: expected a proposal of the latent sites of the program, "
                f"{sorted(latent)}; it draws {sorted(proposed)}."
            )
        sites = [*program.items(), *proposed.items()]
        scaled = sorted({n for n, s in sites if s["type"] == "sample" and s["scale"] is not None})
        if scaled:
            raise TargetError(
                f"vi.normalize: expected a program without minibatches or scaled sites; {scaled} "
                "are scaled. Give plates all their rows."
            )


def _total(sites: dict[str, dict]) -> Array:
    """Log density of all sample sites of a trace."""
    drawn = [site for site in sites.values() if site["type"] == "sample"]
    parts = [jnp.sum(site["fn"].log_prob(site["value"])) for site in drawn]
    return sum(parts[1:], start=parts[0])


def normalize(
    program: Callable,
    *,
    proposal: Callable,
    num_particles: int,
    tempering: Tempering | None = None,
) -> Normalized:
    r"""An unnormalised program as a guide, by importance resampling or SMC from a proposal.

    Of K candidates :math:`z_k \sim r` one is drawn with probability proportional to
    :math:`w_k = \tilde q(z_k) / r(z_k)`, and

    .. math:: \hat q(z) = \tilde q(z) \Big/ \tfrac1K \sum_k w_k

    takes the place of its density. Given z its reciprocal is unbiased for that of the density of
    the draws, so that any bound stays a bound; and :math:`\frac1K \sum_k w_k` is unbiased for the
    normaliser of the program. Where the program is the model itself, the ELBO of this guide is
    the proposal's importance-weighted bound. The choice is a discrete site, enumerated by default.

    Args:
      program: a NumPyro program; its observed sites and factors are part of the density.
      proposal: called with the same arguments; draws the program's latent sites. Its draws are
        sites ``"candidate/<name>"``, with estimators of their own: `Score` where there is no path.
      num_particles: K.
      tempering: lead the candidates through tempered targets (`Tempering`); the estimate of the
        normaliser, in the place of :math:`\frac1K \sum_k w_k`, is then that of SMC.

    Returns:
      A guide, for `vi.SVI` or ``numpyro.infer.SVI`` with an objective as the loss.

    Raises:
      TargetError: when run, if program and proposal differ in their sites, or have minibatches;
        with tempering, if a site is discrete.
      ValueError: if there are no particles, or temperatures are not between 0 and 1, rising.

    Complexity: K evaluations of the program, and K of program and proposal for each intermediate
    temperature; with the choice enumerated, K of the model.

    Reference: Lew, Ghavamizadeh, Rinard and Mansinghka (2023), "Probabilistic programming with
    stochastic probabilities".

    Example:
      >>> import jax, numpyro, numpyro.distributions as dist, optax, vi
      >>> def model():
      ...     z = numpyro.sample("z", dist.Normal(0.0, 1.0))
      ...     numpyro.sample("y", dist.Normal(z**2, 0.3), obs=1.0)
      >>> def proposal():
      ...     numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.5), 1.0))
      >>> guide = vi.normalize(model, proposal=proposal, num_particles=5)
      >>> svi = vi.SVI(model, guide, optax.adam(0.02), vi.elbo(num_particles=2))
      >>> svi.run(jax.random.key(0), 10, progress_bar=False).losses.shape
      (10,)
    """
    check_options("vi.normalize", {"num_particles": num_particles}, {"num_particles": COUNT})
    if tempering is not None:
        options = {name: getattr(tempering, name) for name in REQUIRES}
        check_options("vi.normalize: Tempering", options, REQUIRES)
    return Normalized(program, proposal, num_particles, tempering)
