"""What an objective's program sees of a NumPyro guide and model."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.handlers import seed, substitute
from numpyro.infer.util import compute_log_probs

from vi.errors import TargetError
from vi.program.estimators import Estimator, Pathwise


class GuideDraws(dict):
    """Values of a guide's sites, with a leading axis of particles.

    ``log_q`` is the density of the draws as the guide made them: flows know it only then.
    """

    def __init__(self, values: dict[str, Array], log_q: Array):
        super().__init__(values)
        self.log_q = log_q


class GuideView:
    """A NumPyro guide; a draw is a dictionary of its sites."""

    def __init__(
        self,
        key: Array,
        guide: Callable,
        params: dict[str, Array],
        estimator: Estimator,
        args: tuple,
        kwargs: dict,
    ):
        self._key, self._guide, self._params = key, guide, params
        self._estimator, self._args, self._kwargs = estimator, args, kwargs

    def _draw(self, key: Array) -> tuple[dict[str, Array], Array]:
        guide = substitute(seed(self._guide, key), data=self._params)
        log_probs, sites = compute_log_probs(guide, self._args, self._kwargs, self._params)
        values = {}
        for name, site in sites.items():
            if site["type"] == "sample" and not site["is_observed"]:
                _check_site(name, site)
                values[name] = site["value"]
            elif site["type"] == "plate":
                values[name] = site["value"]
        return values, jnp.asarray(sum(log_probs.values()))

    def sample(self, num_particles: int) -> GuideDraws:
        """Reparameterised draws of the guide's sites, and of the rows of its plates."""
        keys = jax.random.split(self._key, num_particles)
        values, log_q = jax.vmap(self._draw)(keys)
        return GuideDraws(values, log_q)

    def expect(self, f: Callable[[Any], Array], num_particles: int) -> Float[Array, ""]:
        """Estimate of E_q[f(z)] from ``num_particles`` draws."""
        return jnp.mean(f(self.sample(num_particles)))

    def log_density(self, z: GuideDraws) -> Float[Array, " K"]:
        """Log density of the guide at its own draws, in nats."""
        if isinstance(self._estimator, Pathwise):
            return z.log_q
        params = self._estimator.density(self._params)

        def one(values: dict[str, Array]) -> Array:
            guide = seed(self._guide, jax.random.key(0))
            log_probs, _ = compute_log_probs(
                substitute(guide, substitute_fn=_stochastic(values)),
                self._args,
                self._kwargs,
                params,
            )
            return jnp.asarray(sum(log_probs.values()))

        return jax.vmap(one, axis_size=len(z.log_q))(dict(z))


class ModelView:
    """A NumPyro model, evaluated at draws of a guide."""

    def __init__(
        self, key: Array, model: Callable, params: dict[str, Array], args: tuple, kwargs: dict
    ):
        self._key, self._model, self._params = key, model, params
        self._args, self._kwargs = args, kwargs

    def log_density(self, z: GuideDraws) -> Float[Array, " K"]:
        """Log joint density of the model at a guide's draws, in nats."""

        def one(values: dict[str, Array]) -> Array:
            model = seed(self._model, self._key)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="subsample_size does not match")
                log_probs, sites = compute_log_probs(
                    model, self._args, self._kwargs, {**self._params, **values}
                )
            missing = [
                name
                for name, site in sites.items()
                if site["type"] == "sample" and not site["is_observed"] and name not in values
            ]
            if missing:
                raise TargetError(
                    f"objective: expected a guide with a site for each latent site of the model; "
                    f"it has none for {missing}. Add them to the guide."
                )
            return jnp.asarray(sum(log_probs.values()))

        return jax.vmap(one, axis_size=len(z.log_q))(dict(z))


def _stochastic(values: dict[str, Array]) -> Callable[[dict], Array | None]:
    """Substitute the random sites and plates; functions of them (Delta sites) follow."""

    def fill(site: dict) -> Array | None:
        fn = site.get("fn")
        while isinstance(fn, (dist.Independent, dist.ExpandedDistribution)):
            fn = fn.base_dist
        return None if isinstance(fn, dist.Delta) else values.get(site["name"])

    return fill


def _check_site(name: str, site: dict) -> None:
    fn = site["fn"]
    if not fn.has_rsample:
        raise TargetError(
            f"objective: expected sites with pathwise gradients; guide site '{name}' "
            f"({type(fn).__name__}) has none, and Pathwise and StickingTheLanding would be biased. "
            "Use numpyro.infer.TraceGraph_ELBO as the loss, or a reparameterised distribution."
        )
