"""Sequential Monte Carlo between a proposal and a program: tempered targets, resampling, moves."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from vi.errors import TargetError
from vi.module import module, static
from vi.program.estimators import Score
from vi.program.requirements import POSITIVE, Requirement

ANCESTORS, MOVE, ACCEPTED = "ancestors", "move", "accepted"
REQUIRES = {
    "temperatures": Requirement(
        "between 0 and 1, a tuple, rising",
        lambda x: isinstance(x, tuple) and all(a < b for a, b in pairwise((0, *x, 1))),
    ),
    "step_size": POSITIVE,
}


@module
class Tempering:
    r"""Lead candidates from the proposal to the program through tempered targets (SMC sampler).

    With :math:`r` the proposal, :math:`\tilde q` the program, :math:`w = \tilde q / r` and
    :math:`0 = β_0 < \dots < β_T = 1`, the targets are :math:`γ_t = r\, w^{β_t}`. At each
    temperature the particles are weighted, and before the last one resampled (multinomially) and
    moved by a random-walk Metropolis step on their unconstrained values that leaves
    :math:`γ_t` invariant. Then

    .. math:: \hat Z = \prod_{t=1}^T \frac1K \sum_k w(z_k^{t-1})^{β_t - β_{t-1}}

    is unbiased for the program's normaliser, with less noise than importance sampling where r is
    far from the program.

    Which particle is resampled and which move accepted are discrete sites, ``"ancestors/t"`` and
    ``"accepted/t"``, differentiated by `Score` (leave-one-out: two draws of the objective at
    least); the moves ``"move/t"`` by their path. Any other discrete estimator may take their
    place; that of the path is refused, as are those that evaluate the density of the guide again.
    There is no systematic or adaptive resampling: the law of its indices has no tractable score.

    Attributes:
      temperatures: inverse temperatures β between 0 and 1, rising, without the ends.
      step_size: standard deviation of the moves, in unconstrained coordinates.

    Reference: Del Moral, Doucet and Jasra (2006), "Sequential Monte Carlo samplers", section
    3.3.2.3.

    Example:
      >>> import jax, numpyro, numpyro.distributions as dist, optax, vi
      >>> def model():
      ...     z = numpyro.sample("z", dist.Normal(0.0, 1.0))
      ...     numpyro.sample("y", dist.Normal(z**2, 0.3), obs=1.0)
      >>> def proposal():
      ...     numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.5), 1.0))
      >>> how = vi.Tempering(temperatures=(0.1, 0.4))
      >>> guide = vi.normalize(model, proposal=proposal, num_particles=5, tempering=how)
      >>> svi = vi.SVI(model, guide, optax.adam(0.02), vi.elbo(num_particles=2))
      >>> svi.run(jax.random.key(0), 10, progress_bar=False).losses.shape
      (10,)
    """

    temperatures: tuple[float, ...] = static()
    step_size: float = static(default=0.5)


class Particles(NamedTuple):
    """What is left at the last temperature.

    Attributes:
      values: by site, a leading axis of particles.
      log_p: log density of the program, shape ``(K,)``.
      log_w: log weights by which one is chosen, shape ``(K,)``.
      log_normaliser: log Ẑ, shape ``()``.
      log_q: log density of what was drawn on the way, shape ``()``.
    """

    values: dict[str, Array]
    log_p: Array
    log_w: Array
    log_normaliser: Array
    log_q: Array


def temper(
    how: Tempering,
    values: dict[str, Array],
    supports: dict[str, Any],
    densities: Callable[[dict[str, Array]], tuple[Array, Array]],
) -> Particles:
    """Run the sampler, as sites of the guide that calls it.

    Args:
      how: temperatures and step size.
      values: candidates by site, a leading axis of particles.
      supports: of the sites, continuous.
      densities: of one particle: log densities of proposal and program.

    Returns:
      The particles at the last temperature.
    """
    import numpyro
    import numpyro.distributions as dist

    x, constrain = _flat({n: dist.biject_to(support) for n, support in supports.items()}, values)
    count = len(x)
    parts = []  # of the density of what is drawn on the way

    def draw(name: str, law: Any, **infer: Any) -> Array:
        value: Any = numpyro.sample(name, law, infer={"is_auxiliary": True, **infer})
        parts.append(law.log_prob(value))
        return value

    @jax.vmap
    def state(x: Array) -> _State:
        z, log_det = constrain(x)
        log_r, log_p = densities(z)
        return _State(x, z, log_r + log_det, log_p - log_r, log_p)

    now, before, log_z = state(x), 0.0, jnp.zeros(())
    for t, beta in enumerate(how.temperatures, 1):
        step = (beta - before) * now.log_w
        log_z, before = log_z + jax.nn.logsumexp(step) - jnp.log(count), beta
        each: Any = dist.Categorical(logits=step)
        law = each.expand([count]).to_event(1)
        index = draw(f"{ANCESTORS}/{t}", law, estimator=Score())
        now = jax.tree.map(lambda a: a[index], now)  # noqa: B023
        noise = draw(f"{MOVE}/{t}", dist.Normal(jnp.zeros_like(x), 1.0).to_event(2))
        there = state(now.x + how.step_size * noise)
        rise = there.base - now.base + beta * (there.log_w - now.log_w)
        law = dist.Bernoulli(probs=jnp.exp(jnp.minimum(rise, 0))).to_event(1)
        accepted = draw(f"{ACCEPTED}/{t}", law, estimator=Score())
        now = _pick(accepted == 1, there, now)
    step = (1 - before) * now.log_w
    log_z = log_z + jax.nn.logsumexp(step) - jnp.log(count)
    return Particles(now.z, now.log_p, step, log_z, sum(parts, start=jnp.zeros(())))


class _State(NamedTuple):
    """Particles: unconstrained, by site, log density of the proposal there, log w, program's."""

    x: Array
    z: dict[str, Array]
    base: Array
    log_w: Array
    log_p: Array


def _pick(mask: Array, new: _State, old: _State) -> _State:
    """Particles of one state or the other."""
    pick = lambda a, b: jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, new, old)


def check_supports(look: Callable[..., dict[str, dict]], values: dict[str, Array]) -> None:
    """Raise a `TargetError` for sites that a random walk cannot move.

    Args:
      look: the sites of the proposal, traced at given values of them.
      values: some values.
    """
    from numpyro.ops.provenance import eval_provenance

    sites = look(**values)
    bounds = lambda **z: {n: jax.tree.leaves(s["fn"].support) for n, s in look(**z).items()}
    moving = {n for n, found in eval_provenance(bounds, **values).items() if any(found)}
    for name, site in sites.items():
        if site["fn"].support.is_discrete or name in moving:
            wrong = "has a support that depends on other sites" if name in moving else "is discrete"
            raise TargetError(
                f"vi.normalize: expected continuous sites of fixed support with vi.Tempering, "
                f"whose moves are random walks; site {name!r} {wrong}. Leave tempering out, or "
                "write the site with another support."
            )


def _flat(
    maps: dict[str, Any], values: dict[str, Array]
) -> tuple[Array, Callable[[Array], tuple[dict[str, Array], Array]]]:
    """Unconstrained vectors ``(K, D)``; and the sites of one, with the log determinant."""
    free = lambda z: {name: maps[name].inv(value) for name, value in z.items()}
    _, unravel = ravel_pytree(free(jax.tree.map(lambda v: v[0], values)))

    def constrain(x: Array) -> tuple[dict[str, Array], Array]:
        u = unravel(x)
        z = {name: maps[name](value) for name, value in u.items()}
        dets = [jnp.sum(maps[n].log_abs_det_jacobian(u[n], z[n])) for n in u]
        return z, sum(dets, start=jnp.zeros(()))

    return jax.vmap(lambda z: ravel_pytree(free(z))[0])(values), constrain
