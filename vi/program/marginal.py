"""Guides whose density is estimated: auxiliary sites are marginalised by importance sampling."""

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vi.errors import TargetError
from vi.program.bounds import log_mean_exp
from vi.program.estimators import ESTIMATED, Score
from vi.program.requirements import COUNT, check_options

PROPOSALS, PROPOSED = "_proposals", "proposed"


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
        latent = latents(sites)
        values = {name: site["value"] for name, site in latent.items()}
        kept = {name: x for name, x in values.items() if name not in self.auxiliary}
        u = {name: x for name, x in values.items() if name in self.auxiliary}
        rows = {name: s["value"] for name, s in sites.items() if s["type"] == "plate"}
        proposed = run(self.proposal, (kept, *args), kwargs, {**u, **rows}, visible=True)
        self._check(latent, latents(proposed))
        joint = log_prob(latent)
        log_w = (joint - log_prob(latents(proposed)))[None]
        if self.num_particles > 1:
            others, log_r = self._propose(kept, u, params_of(proposed), args, kwargs)
            given = {**params_of(sites), **kept, **rows}
            at = lambda u: log_prob(latents(run(self.guide, args, kwargs, {**given, **u})))
            log_w = jnp.concatenate([log_w, jax.vmap(at)(others) - log_r])
            joint = joint + log_r.sum(0)
        with contextlib.ExitStack() as stack:
            for frame in next(iter(latent.values()))["cond_indep_stack"]:
                size, taken = sites[frame.name]["args"][:2]
                stack.enter_context(numpyro.plate(frame.name, size, taken, dim=frame.dim))
            estimated_factor("_marginal", log_mean_exp(log_w) - joint)

    def _propose(
        self, kept: dict, u: dict, params: dict, args: tuple, kwargs: dict
    ) -> tuple[dict[str, Array], Array]:
        """Further auxiliaries, as sites of the guide, and their log densities; by particle."""
        import numpyro
        from numpyro.handlers import block, infer_config, scope, substitute, trace

        count = self.num_particles - 1
        hidden = block(substitute(self.proposal, data=params), hide=[*params])
        plate = numpyro.plate(PROPOSALS, count, dim=-1 - max(map(jnp.ndim, u.values())))
        with trace() as found, plate, scope(prefix=PROPOSED, hide_types=["param", "plate"]):
            infer_config(hidden, config_fn=scored)(kept, *args, **kwargs)
        new = {name.removeprefix(PROPOSED + "/"): s for name, s in latents(found).items()}
        values = {n: s["value"].reshape(count, *jnp.shape(u[n])) for n, s in new.items()}
        return values, log_prob(new, particles=(count,))

    def _check(self, latent: dict, proposed: dict) -> None:
        missing = sorted(set(self.auxiliary) - latent.keys())
        everywhere = [*latent.values(), *proposed.values()]
        plates = {tuple(sorted(f.name for f in s["cond_indep_stack"])) for s in everywhere}
        if missing or len(plates) > 1:
            wrong = f"no site {missing}" if missing else f"sites in the plates {sorted(plates)}"
            raise TargetError(
                f"vi.marginal: expected a guide with the auxiliary sites {list(self.auxiliary)}, "
                f"and all its sites and the proposal's in the same plates; it has {wrong}. Name "
                "its own sites, and write other plates as batch dimensions with to_event."
            )
        if set(proposed) != set(self.auxiliary):
            raise TargetError(
                f"vi.marginal: expected a proposal that draws exactly the auxiliary sites "
                f"{list(self.auxiliary)}; it draws {sorted(proposed)}."
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
      guide: a NumPyro guide; all its sites are in the same plates, or in none. In plates, the
        density is estimated row by row, as `vi.iwae` and its relatives need it.
      auxiliary: names of its sites that the model does not have.
      proposal: called as ``proposal(z, *args, **kwargs)`` with a dictionary of the other sites;
        draws the auxiliary sites, discrete ones included. May have parameters. The further
        draws are sites of the guide as well, ``"proposed/<name>"``, with estimators of their own:
        `Score` where there is no path.
      num_particles: M.

    Returns:
      A guide, for `vi.SVI` or ``numpyro.infer.SVI`` with an objective as the loss.

    Raises:
      TargetError: when run, if sites are missing or in different plates; and by estimators that
        treat the density of the guide as if it were exact, such as `StickingTheLanding`.

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
    check_options("vi.marginal", {"num_particles": num_particles}, {"num_particles": COUNT})
    return Marginal(guide, tuple(auxiliary), proposal, num_particles)


def run(
    program: Callable, args: tuple, kwargs: dict, given: dict, *, visible: bool = False
) -> dict:
    """Trace a program apart from the handlers around it; its parameters may stay visible."""
    from numpyro.handlers import block, seed, substitute, trace

    hidden = block(hide_fn=lambda site: not visible or site["type"] != "param")
    with hidden, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="subsample_size does not match")
        seeded = seed(substitute(program, data=given), jax.random.key(0))
        return trace(seeded).get_trace(*args, **kwargs)


def estimated_factor(name: str, log_factor: Array) -> None:
    """A factor that makes the density of a guide an estimate, of the right mean at its draws."""
    import numpyro
    import numpyro.distributions as dist

    unit = dist.Unit(log_factor)
    infer = {"is_auxiliary": True, ESTIMATED: True}
    numpyro.sample(name, unit, obs=unit.sample(None), infer=infer)


def latents(sites: dict) -> dict[str, dict]:
    """The latent sites of a trace."""
    latent = lambda site: site["type"] == "sample" and not site["is_observed"]
    return {name: site for name, site in sites.items() if latent(site)}


def params_of(sites: dict) -> dict[str, Array]:
    """The parameters of a trace."""
    return {name: site["value"] for name, site in sites.items() if site["type"] == "param"}


def log_prob(sites: dict, particles: tuple[int, ...] = ()) -> Array:
    """Log density by row of the plates, which all sites share, after leading ``particles``."""
    parts = [_by_row(site, particles) for site in sites.values()]
    return sum(parts[1:], start=parts[0])


def _by_row(site: dict, particles: tuple[int, ...]) -> Array:
    found = site["fn"].log_prob(site["value"])
    dims = {frame.dim for frame in site["cond_indep_stack"] if frame.name != PROPOSALS}
    first = len(particles) - found.ndim
    drop = tuple(d for d in range(first, 0) if d not in dims)
    found = found.sum(drop, keepdims=True) if drop else found
    depth = max((-dim for dim in dims), default=0)
    return found.reshape(*particles, *found.shape[found.ndim - depth :])


def scored(site: dict) -> dict:
    """Proposals without a path are scored unless they say otherwise."""
    chosen = site["fn"].has_rsample or "estimator" in site["infer"]
    return {} if chosen else {"estimator": Score()}
