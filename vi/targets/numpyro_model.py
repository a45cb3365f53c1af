"""A NumPyro model as a log density over unconstrained values of its latent sites."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to
from numpyro.distributions.util import sum_rightmost
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import log_density

from vi.errors import TargetError
from vi.targets.arguments import Arguments
from vi.targets.cost import Cost
from vi.targets.layout import Layout
from vi.targets.observed import check_shapes, kind_of
from vi.targets.rows import batches_in
from vi.targets.running import RUNNING_A_MODEL

Sites = dict[str, jax.Array]


class NumPyroModel:
    """The static half of a target: the model, its structure, and how to evaluate it on data.

    Equal calls share one instance, and hence one compilation; the data are arguments.
    """

    def __init__(self, model: Callable, arguments: Arguments, data: list):
        """Trace the model abstractly once to learn its sites.

        Args:
          model: a function with NumPyro primitives.
          arguments: the static part of the arguments.
          data: the data leaves, or their shapes and dtypes.

        Raises:
          TargetError: if a site cannot be part of a density.
        """
        self.model = model
        self.arguments = arguments
        self.plates: dict[str, tuple[int, int]] = {}
        self.all_rows = True  # whether subsampled plates can be run on all their indices
        self.observes = False  # whether any site, or factor, depends on data
        self._learn(data)

    # ---- structure -----------------------------------------------------------------------

    def _learn(self, data: list) -> None:
        """Find the sites, and check that the density can be evaluated."""
        found = self._probe(data)
        if self.plates:  # known only now: look again, at all their rows
            try:
                self._settle(self._probe(data), data)
                return
            except (ValueError, TypeError) as error:
                self.all_rows = False
                found = self._probe(data)
                if not batches_in(self.arguments.join(data)) and self._reads_rows(data):
                    raise TargetError(
                        "vi.target: expected a model that runs for any number of rows of plate "
                        f"{sorted(self.plates)}, since a fit is judged on all of them; with all "
                        f"it raises {type(error).__name__}: {error} Take shapes from the indices "
                        "that the plate gives rather than from subsample_size."
                    ) from error
        self._settle(found, data)

    def _reads_rows(self, data: list) -> bool:
        """Whether the model uses the indices of its plates: then its data are all the rows."""

        def run(rows: dict[str, jax.Array]) -> Any:
            def fill(site: dict) -> jax.Array | None:
                return rows.get(site["name"]) if site["type"] == "plate" else self._probe_site(site)

            args, kwargs = self.arguments.join(data)
            model = substitute(seed(self.model, jax.random.key(0)), substitute_fn=fill)
            sites = trace(model).get_trace(*args, **kwargs)
            samples = [s for s in sites.values() if s["type"] == "sample"]
            return [(s["value"], s["fn"].log_prob(s["value"])) for s in samples]

        rows = {name: jnp.arange(batch) for name, (_, batch) in self.plates.items()}
        jaxpr = jax.make_jaxpr(run)(rows).jaxpr
        used = {id(v) for equation in jaxpr.eqns for v in equation.invars}
        used |= {id(v) for v in jaxpr.outvars}
        return any(id(v) in used for v in jaxpr.invars)

    def _settle(self, found: dict[str, tuple[int, ...]], data: list) -> None:
        names, shapes = tuple(found), tuple(found.values())
        self.layout = Layout(names, shapes, jnp.result_type(float).name)
        if not self.layout.dim:
            raise TargetError(
                "vi.target: expected a model with at least one continuous latent site; it has "
                "none (D = 0). Add a numpyro.sample statement without obs, or check that the "
                "data are not conditioned on every site."
            )
        point = jax.ShapeDtypeStruct((self.layout.dim,), self.layout.dtype)
        self.cost = Cost.of(jax.make_jaxpr(self.log_density)(data, point).jaxpr)

    def _probe(self, data: list) -> dict[str, tuple[int, ...]]:
        """Names and unconstrained shapes of the latent sites."""
        found: dict[str, tuple[int, ...]] = {}

        def run(data: list) -> None:
            args, kwargs = self.arguments.join(data)
            model = seed(self.model, jax.random.key(0))
            model = substitute(model, substitute_fn=self._probe_site)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="subsample_size does not match")
                sites = trace(model).get_trace(*args, **kwargs)
            for name, site in sites.items():
                if site["type"] == "plate":
                    size, batch = site["args"]
                    if batch is not None and batch < size:
                        self.plates[name] = (size, batch)
                elif site["type"] in ("param", "mutable"):
                    raise TargetError(
                        f"vi.target: expected only sample sites; got numpyro.{site['type']} "
                        f"site '{name}'. Give it a prior (numpyro.sample), or train it with vi.SVI."
                    )
                elif site["type"] == "sample" and not site["is_observed"]:
                    self._check_global(site, (args, kwargs))
                    transform = biject_to(site["fn"].support)
                    found[name] = tuple(transform.inverse_shape(jnp.shape(site["value"])))
                elif site["type"] == "sample":
                    self.observes = True
                    check_shapes(name, site)

        jax.eval_shape(run, data)
        return found

    def _check_global(self, site: dict, arguments: tuple) -> None:
        inside = [frame.name for frame in site["cond_indep_stack"] if frame.name in self.plates]
        if inside and batches_in(arguments):
            raise TargetError(
                f"vi.target: expected latent sites outside the plate of vi.Rows; '{site['name']}' "
                f"is inside '{inside[0]}', one value for each row. Compute it from the rows by a "
                "guide, for vi.SVI, or sum it out."
            )

    def _probe_site(self, site: dict) -> jax.Array | None:
        if site["type"] == "plate":
            return self._indices(None).get(site["name"])
        if site["type"] != "sample" or site["is_observed"]:
            return None
        name, fn = site["name"], site["fn"]
        if fn.support is not None and fn.support.is_discrete:
            raise TargetError(
                f"vi.target: expected continuous latent sites; got discrete site '{name}' "
                f"({kind_of(fn)}). If it is data, pass it as obs=. Else sum it out in the model "
                "(for a mixture, dist.MixtureSameFamily or numpyro.factor with logsumexp), or fit "
                "with vi.SVI(model, guide, optimizer, vi.elbo(num_particles=4)) and a guide that "
                "samples it: discrete sites are enumerated or scored there."
            )
        while isinstance(fn, (dist.Independent, dist.ExpandedDistribution)):
            fn = fn.base_dist
        if isinstance(fn, dist.Delta):
            raise TargetError(
                f"vi.target: expected latent sites with a density; got Delta site '{name}'. "
                "Use numpyro.deterministic for values that are functions of other sites."
            )
        try:
            transform = biject_to(site["fn"].support)
        except NotImplementedError:
            raise TargetError(
                f"vi.target: expected a support with a bijection to the reals; site '{name}' has "
                f"{site['fn'].support}. Register one with numpyro.distributions.biject_to."
            ) from None
        return transform(jnp.zeros(transform.inverse_shape(site["fn"].shape())))

    # ---- evaluation ----------------------------------------------------------------------

    def _indices(self, key: jax.Array | None, arguments: Any = ()) -> dict[str, jax.Array]:
        """Rows of each subsampled plate: all of them, or a random minibatch, or those of `Batch`.

        A minibatch is drawn with replacement: unbiased, and O(batch) whatever the plate's size.
        """
        for batch in batches_in(arguments):
            sizes = {name: size for name, (size, _) in self.plates.items()}
            return {name: batch.rows for name, size in sizes.items() if size == batch.num_rows}
        if not self.all_rows:
            return {}
        out = {}
        for i, (name, (size, batch)) in enumerate(self.plates.items()):
            if key is None:
                out[name] = jnp.arange(size)
            else:
                out[name] = jax.random.randint(jax.random.fold_in(key, i), (batch,), 0, size)
        return out

    def _trace(self, data: list, values: Sites, key: jax.Array | None) -> tuple[jax.Array, dict]:
        """Log density over the unconstrained values, and the model's trace there."""
        args, kwargs = self.arguments.join(data)
        indices = self._indices(key, (args, kwargs))
        minibatch = indices if key is not None else {}

        def fill(site: dict) -> Any:
            if site["type"] == "plate":
                return indices.get(site["name"])
            if site["type"] == "sample" and not site["is_observed"] and site["name"] in values:
                return _fill_site(site, values[site["name"]], minibatch)
            return None

        model = seed(self.model, jax.random.key(0) if key is None else key)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            with RUNNING_A_MODEL:
                try:
                    filled = substitute(model, substitute_fn=fill)
                    value, sites = log_density(filled, args, kwargs, {})
                except ValueError as error:
                    if key is None or "shapes disagree at site" not in str(error):
                        raise
                    raise TargetError(
                        "vi.target: expected observations of the shape of their distribution in a "
                        f"minibatch; got {str(error).rpartition('site: ')[2]}. Index them by the "
                        "plate: obs=y[rows]."
                    ) from error
        return jnp.asarray(value), sites

    def log_density(self, data: list, z: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Log joint density at one unconstrained vector ``z`` of shape ``(D,)``.

        Args:
          data: data leaves.
          z: shape ``(D,)``.
          key: if given, subsampled plates draw a minibatch and the result is an unbiased
            estimate; otherwise all rows are used.

        Returns:
          Shape ``()``, nats, log-Jacobians of the constraining maps included.
        """
        return self._trace(data, self.layout.unravel(z), key)[0]

    def constrain(self, data: list, z: jax.Array) -> Sites:
        """Constrained values of the latent sites and of the deterministic sites at ``z``."""
        _, sites = self._trace(data, self.layout.unravel(z), None)
        partial = bool(batches_in(self.arguments.join(data)))  # the other rows are not in memory

        def whole(site: dict) -> bool:
            return not (partial and any(f.name in self.plates for f in site["cond_indep_stack"]))

        return {
            name: site["value"]
            for name, site in sites.items()
            if name in self.layout.names or (site["type"] == "deterministic" and whole(site))
        }

    def unconstrain(self, data: list, values: Sites) -> jax.Array:
        """The unconstrained vector ``z`` at which the latent sites have the given values."""

        def value_of(site: dict) -> jax.Array:
            value = jnp.asarray(values[site["name"]], self.layout.dtype)
            step = site["infer"].get("_scan_current_index")  # inside numpyro's scan
            if step is not None and value.ndim > len(site["fn"].shape()):
                value = value[step]
            return jnp.broadcast_to(value, site["fn"].shape())

        return self._unconstrained(data, value_of)

    def _unconstrained(self, data: list, value_of: Callable[[dict], jax.Array]) -> jax.Array:
        """The unconstrained vector of values chosen site by site as the model runs."""
        args, kwargs = self.arguments.join(data)

        def fill(site: dict) -> Any:
            if site["type"] == "plate":
                return self._indices(None, (args, kwargs)).get(site["name"])
            latent = site["type"] == "sample" and not site["is_observed"]
            return value_of(site) if latent else None

        model = substitute(seed(self.model, jax.random.key(0)), substitute_fn=fill)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="subsample_size does not match")
            with RUNNING_A_MODEL:
                sites = trace(model).get_trace(*args, **kwargs)
        found = {
            n: biject_to(sites[n]["fn"].support).inv(sites[n]["value"]) for n in self.layout.names
        }
        return self.layout.ravel(found)

    def prior_point(self, data: list) -> jax.Array:
        """The unconstrained vector of the sites' prior means, given those of the sites before.

        Where a mean does not exist, is not finite or lies on the edge of the support, zero.
        """

        def value_of(site: dict) -> jax.Array:
            fn = site["fn"]
            transform = biject_to(fn.support)
            u = jnp.zeros(transform.inverse_shape(fn.shape()))
            try:
                inverse = transform.inv(jnp.broadcast_to(fn.mean, fn.shape()))
            except (NotImplementedError, AttributeError):
                return transform(u)
            # Without the barrier XLA takes log(exp(u)) for u, where exp(u) overflows.
            again = transform.inv(jax.lax.optimization_barrier(transform(inverse)))
            return transform(jnp.where(jnp.isfinite(again), inverse, u))

        return self._unconstrained(data, value_of)

    def observed(self, data: list) -> Sites:
        """Values of the observed sites."""
        _, sites = self._trace(data, self._zeros(), None)
        return {
            name: site["value"]
            for name, site in sites.items()
            if site["type"] == "sample"
            and site["is_observed"]
            and not isinstance(site["fn"], dist.Unit)
        }

    def _zeros(self) -> Sites:
        return self.layout.unravel(jnp.zeros(self.layout.dim, self.layout.dtype))

    def log_jacobian(self, data: list, z: jax.Array) -> jax.Array:
        """Log determinant of the map from unconstrained to constrained values at ``z``."""
        _, sites = self._trace(data, self.layout.unravel(z), None)
        names = [f"_{name}_log_det" for name in self.layout.names]
        terms = [jnp.sum(sites[n]["fn"].log_prob(sites[n]["value"])) for n in names if n in sites]
        return sum(terms, start=jnp.zeros((), self.layout.dtype))

    def log_factors(self, data: list, z: jax.Array) -> dict[str, jax.Array]:
        """Log density of each site at ``z``, by site and not summed, to tell which is at fault."""
        _, sites = self._trace(data, self.layout.unravel(z), None)
        return {
            name: site["fn"].log_prob(site["value"])
            for name, site in sites.items()
            if site["type"] == "sample"
        }

    def log_likelihoods(self, data: list, z: jax.Array) -> dict[str, jax.Array]:
        """Log density of every observation at ``z``, also where ``to_event`` would sum them."""
        _, sites = self._trace(data, self.layout.unravel(z), None)
        out = {}
        for name, site in sites.items():
            fn = site["fn"] if site["type"] == "sample" and site["is_observed"] else dist.Unit(0.0)
            while isinstance(fn, dist.Independent):
                fn = fn.base_dist
            if not isinstance(fn, dist.Unit):
                out[name] = fn.log_prob(site["value"])
        return out


def _fill_site(site: dict, u: jax.Array, minibatch: dict[str, jax.Array]) -> jax.Array:
    """Constrained value of a site from its unconstrained one; adds the log-Jacobian as a factor."""
    fn = site["fn"]
    transform = biject_to(fn.support)
    event_dim = len(fn.event_shape) - (transform.codomain.event_dim - transform.domain.event_dim)
    step = site["infer"].get("_scan_current_index")  # inside numpyro's scan: one item of a series
    if step is not None and jnp.ndim(u) > len(fn.batch_shape) + event_dim:
        u = u[step]
    for frame in site["cond_indep_stack"]:
        if frame.name in minibatch:
            u = jnp.take(u, minibatch[frame.name], axis=frame.dim - event_dim)
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real:
        return u
    value = transform(u)
    log_det = transform.log_abs_det_jacobian(u, value)
    extra = jnp.ndim(log_det) - jnp.ndim(value) + len(fn.event_shape)
    numpyro.factor(f"_{site['name']}_log_det", sum_rightmost(log_det, extra))
    return value
