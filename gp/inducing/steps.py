"""One step on a minibatch: a natural one of q(u), then one of hyperparameters at the new q."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gp.inducing.algebra import Whitened, basis, features, whitened
from gp.inducing.coordinates import COORDINATES, Natural
from gp.inducing.streamed import each
from gp.model import FLOOR, Data, Model
from gp.parameters import constrained, log_prior
from optim.tree import all_finite
from vi.compile import quick_jit
from vi.status import Status
from vi.targets.mesh import chosen, mesh_of_rows
from vi.targets.points import over_points

INDUCING = "inducing"  # their name among the values that are trained
MAX_SKIPS = 50  # steps in a row that are not finite
_LEAST_RATE = 2.0**-10


class _View(NamedTuple):
    """What a minibatch shows of a prior: by latent function, on first axes of L."""

    tril: Float[Array, "L M M"]
    features: Float[Array, "L M B"]
    mean: Float[Array, "L B"]
    variance: Float[Array, "L B"]


def _view(model: Model, z: Any, x: Array) -> _View:
    def at(shared: tuple, x: Array) -> tuple[Array, Array, Array]:
        kernel, mean, z, tril = shared
        return features(kernel, z, tril, x).T, mean(x), kernel.diagonal(x)

    def one(kernel: Any, mean: Any) -> _View:
        tril, _ = basis(kernel, z)
        a, mu, variance = over_points(at, (kernel, mean, z, tril), x, mesh_of_rows())
        return _View(tril, a.T, mu, variance)

    functions = model.kernel, model.mean
    if model.likelihood.latents == 1:
        functions = jax.tree.map(lambda a: a[None], functions)
    return each(one, model.likelihood.latents)(*functions)


@quick_jit(static_argnums=0)
def hold_as(coordinates: str, model: Model, z: Any, natural: Natural) -> Natural:
    """Natural parameters of q(v) in the coordinates they are held in."""
    latents = model.likelihood.latents
    kernel = jax.tree.map(lambda a: a[None], model.kernel) if latents == 1 else model.kernel
    tril = each(lambda kernel: basis(kernel, z).tril, latents)(kernel)
    return each(COORDINATES[coordinates].hold, latents)(natural, tril)


def _marginals(q: Whitened, view: _View, latents: int) -> tuple[Array, Array]:
    """Means and variances of the function, (B,) or (B, L)."""
    mean, variance = each(Whitened.marginals, latents)(q, view.features, view.variance)
    mean = mean + view.mean
    return (mean[0], variance[0]) if latents == 1 else (mean.T, variance.T)


def _natural_step(
    natural: Natural, q: Whitened, view: _View, likelihood: Any, y: Array, scale: Array, rate: Array
) -> tuple[Natural, Array]:
    """The new natural parameters, and the minibatch's E[log p] before."""
    latents = likelihood.latents
    mean, variance = _marginals(q, view, latents)
    found = likelihood.expect(mean, variance, y)
    curvature = jnp.maximum(found.curvature, FLOOR * jnp.mean(jnp.abs(found.curvature), axis=0))
    wide = lambda a: a[None] if latents == 1 else a.T
    weights, slopes, centred = wide(curvature), wide(found.gradient), wide(mean) - view.mean

    def move(old: Natural, a: Array, weight: Array, linear: Array) -> Natural:
        eye = jnp.eye(len(a), dtype=a.dtype)
        return Natural(
            (1 - rate) * old.linear + rate * scale * (a @ linear),
            (1 - rate) * old.precision + rate * (eye + scale * (a * weight) @ a.T),
        )

    new = each(move, latents)(natural, view.features, weights, weights * centred + slopes)
    return new, jnp.sum(found.value)


def _minibatch(key: Array, batch: int, data: Data) -> tuple[Array, Array]:
    """Inputs and targets of a minibatch with replacement; all in order where it is as large."""
    count = len(data.y)
    if batch == count:
        return data.of_targets(data.x), data.y
    rows = jax.random.randint(key, (batch,), 0, count)
    y, index = chosen((data.y, data.index), rows)
    return chosen(data.x, rows if data.alone else index), y


def take_steps(
    optimizer: Any, arrays: tuple, fixed: tuple, count: Array, settings: tuple[int, str]
) -> tuple:
    """Up to so many steps, and the mean ELBO of those at which it is finite."""
    model, z, data, priors, key, most = fixed
    batch, name = settings
    whiten, hold = COORDINATES[name]
    latents, scale = model.likelihood.latents, len(data.y) / batch
    stop = jax.lax.stop_gradient

    def step(number: Array, state: tuple) -> tuple:
        (time, values, opt_state, held, rate, skips, status), total = state
        x, y = _minibatch(jax.random.fold_in(key, time), batch, data)
        # One look at the prior, whose derivative is taken at the end.
        look = lambda v: _view(constrained(model, v), v.get(INDUCING, z), x)
        view, back = jax.vjp(look, values)
        here = constrained(model, values)
        natural = each(whiten, latents)(held, view.tril)
        q = each(whitened, latents)(*natural)
        new, fit = _natural_step(natural, q, view, here.likelihood, y, scale, rate)
        kept = each(hold, latents)(new, view.tril)

        def loss(view: _View, values: dict) -> tuple[Array, Array]:
            now = each(whiten, latents)(kept, view.tril)
            q = each(whitened, latents)(*now)
            likelihood = constrained(model, values).likelihood
            found = likelihood.expect(*_marginals(q, view, latents), y)
            elbo = scale * jnp.sum(found.value) - jnp.sum(each(lambda q: q.kl, latents)(q))
            return -elbo - log_prior(constrained(model, values), priors), elbo

        slopes, elbo = jax.grad(loss, argnums=(0, 1), has_aux=True)(view, values)
        before = scale * fit - jnp.sum(each(lambda q: q.kl, latents)(q))
        (into_view, direct) = slopes
        grads = jax.tree.map(jnp.add, back(into_view)[0], direct)
        updates, new_opt = optimizer.update(grads, opt_state, values)
        moved = optax.apply_updates(values, updates)
        slack = 32 * jnp.finfo(elbo.dtype).eps * jnp.abs(elbo)
        finite = jnp.isfinite(elbo) & all_finite((moved, kept))
        rose = finite & ((elbo >= before - slack) | ~jnp.isfinite(before))
        pick = lambda good, new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        values, opt_state, held = pick(rose, (moved, new_opt, kept), (values, opt_state, held))
        rate = jnp.where(rose, jnp.minimum(2 * rate, most), jnp.maximum(0.5 * rate, _LEAST_RATE))
        skips = jnp.where(finite, 0, skips + 1)
        status = jnp.where(skips > MAX_SKIPS, Status.NONFINITE, status).astype(jnp.int32)
        now = jnp.where(rose, stop(elbo), before)
        seen = jnp.isfinite(now)
        total = total + jnp.stack([jnp.where(seen, now, 0), seen.astype(now.dtype)])
        return (time + 1, values, opt_state, held, rate, skips, status), total

    zero = jnp.zeros(2, data.y.dtype)
    arrays, (total, seen) = jax.lax.fori_loop(0, count, step, (arrays, zero))
    return arrays, total / seen
