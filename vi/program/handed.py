"""What a program is handed: the target or model, and the family or guide, as it sees them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.errors import TargetError
from vi.program.expectation import has_rules
from vi.program.tape import Recording, Replaying, Side, Through


class DensityView:
    """A log density as a program sees it."""

    _side: Side = "p"
    _has = "log_prior(z), log_likelihood(z), sample_prior(K), simulate(K, arguments)"

    def __init__(self, tape: Recording | Replaying):
        self._tape = tape

    def __getattr__(self, name: str) -> Any:
        """Say what there is in place of a name that there is not."""
        raise AttributeError(
            f"objective: the view of {self._side} that a program is handed has no {name!r}; it has "
            "log_density(z), and " + self._has + ". Its law and its parameters are not shown."
        )

    def log_density(self, z: Any, through: Through | None = None) -> Float[Array, " K"]:
        """Log density at draws, in nats; of p, unnormalised, and unbiased under subsampling.

        Args:
          z: draws: of a family ``(K, D)``, of a guide a dictionary of its sites.
          through: what the gradient goes through: the ``"draws"``, the ``"parameters"`` of the
            density, or ``"both"``; if not given, both for p, and for q what the estimator says.

        Returns:
          Shape ``(K,)``.
        """
        return self._tape.density(self._side, z, through)


class ModelView(DensityView):
    """A target or model as a program sees it."""

    def log_prior(self, z: Any, through: Through = "both") -> Float[Array, " K"]:
        """Log density of a model's latent sites alone, without its observations.

        Args:
          z: draws of a guide.
          through: as in `log_density`.

        Returns:
          Shape ``(K,)``.

        Raises:
          TargetError: for a `Target`, whose density is not told apart.
        """
        return self._tape.density("prior", z, through)

    def log_likelihood(self, z: Any, through: Through = "both") -> Float[Array, " K"]:
        """Log density of a model's observations alone; arguments as of `log_prior`."""
        return self._tape.density("likelihood", z, through)

    def sample_prior(self, num_particles: int) -> Any:
        """Draws of a model's latent sites from their prior, as a dictionary; not differentiated."""
        return self._tape.draw(num_particles, "prior")[0]

    def simulate(self, num_particles: int, arguments: Sequence[tuple[str, str]]) -> Any:
        """Draws of a model's latent sites and data; log densities at them are given those data.

        Args:
          num_particles: K.
          arguments: pairs of the name of an observed site and that of the argument of the model
            that has its data, which the simulated ones replace.

        Returns:
          The latent sites, as a dictionary; not differentiated.
        """
        return self._tape.draw(num_particles, "joint", arguments)[0]


class FamilyView(DensityView):
    """A family or guide as a program sees it."""

    _side: Side = "q"
    _has = "sample(K), expect(f, K), entropy(z), kl(z), exact(f, z), by_site(f, z, sites)"

    def sample(
        self, num_particles: int, *, detached: bool = False, reparameterized: bool = False
    ) -> Any:
        """Equally weighted independent draws.

        Args:
          num_particles: K.
          detached: take them as data: no gradient for the law they are drawn from. The program
            is then differentiated at fixed draws, which is not the gradient of its mean.
          reparameterized: refuse sites whose gradient is not their path alone, for programs that
            write out their own gradient.

        Returns:
          Shape ``(K, D)`` for a family, a dictionary of ``(K, *shape)`` for a guide.
        """
        kind = "detached" if detached else "path" if reparameterized else "equal"
        return self._tape.draw(num_particles, kind)[0]

    def expect(self, f: Callable[[Any], Array], num_particles: int) -> Float[Array, ""]:
        """Estimate of E_q[f(z)]; enumerated sites and components of mixtures are summed over.

        Args:
          f: maps draws, with a leading axis of rows, to one value for each row. An integrand
            with a rule in `vi.register_expectation` is not sampled.
          num_particles: number of draws.

        Returns:
          Shape ``()``.
        """
        z, weights = self._tape.draw(num_particles, "weighted")
        each = self.exact(f, z) if has_rules(f) else f(z)
        if jnp.shape(each) != jnp.shape(weights):
            raise TargetError(
                "q.expect: expected one value for each draw, of shape "
                f"{jnp.shape(weights)}; the integrand gave {jnp.shape(each)}. Sum over the other "
                "axes."
            )
        return jnp.sum(weights * each)

    def exact(self, f: Callable[[Any], Array], z: Any) -> Float[Array, " K"]:
        """E_q[f] in closed form, the same in all rows, if there is a rule; else f(z).

        Args:
          f: an integrand of a type that some rule is for (`vi.register_expectation`).
          z: draws of a family.

        Returns:
          Shape ``(K,)``.
        """
        return self._tape.closed(f, z)

    def entropy(self, z: Any) -> Float[Array, " K"]:
        """Entropy of q, which has the mean of ``-q.log_density(z)`` and less noise.

        In closed form where the family has one; of a guide, site by site, given the draws of the
        sites before it, and minus the log density at the draw where a site has none.

        Args:
          z: draws.

        Returns:
          Shape ``(K,)``, nats.
        """
        return self._tape.closed("entropy", z)

    def kl(self, z: Any) -> Float[Array, " K"]:
        """KL divergence of q from the model's prior, of the mean of ``log_density - log_prior``.

        Site by site, in closed form if NumPyro's ``kl_divergence`` has a rule for the pair of
        distributions and the model's law of the site does not depend on what the guide draws
        after it; otherwise at the draws. For guides.

        Args:
          z: draws.

        Returns:
          Shape ``(K,)``, nats.
        """
        return self._tape.closed("kl", z)

    def by_site(
        self,
        f: Callable[[Any, Any], Array],
        z: Any,
        sites: Sequence[str],
        *,
        fixed: bool = False,
    ) -> Float[Array, " K"]:
        """Sum over sites of any functional of their laws; for guides.

        Args:
          f: maps the NumPyro distributions of a site in guide and model, given the draws of the
            sites before it, to an array of its batch shape.
          z: draws.
          sites: names of random sites that guide and model share.
          fixed: refuse sites whose laws depend on other random sites, or that are in a minibatch:
            then all rows are the same, and any function of them is exact.

        Returns:
          Shape ``(K,)``.
        """
        from vi.program.closed import BySite

        return self._tape.closed(BySite(f, tuple(sites), fixed), z)
