"""MixFlows: mixtures of repeated measure-preserving maps, families with nothing to train."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flows.flow import Flow
from flows.hamiltonian import HamiltonianMap, Point
from vi.module import module, static

_AUXILIARY = 64  # draws of momentum and phase that the density at a given point averages over
_MOMENT_DRAWS = 1024


class Evaluation(NamedTuple):
    """What orbits from draws of q_0 say of a MixFlow, one number an orbit.

    Attributes:
      elbo: unbiased estimates of the ELBO, shape ``(S,)``, nats; their mean estimates it.
      inversion_error: the largest coordinate of x - T^-(N-1) T^(N-1) x, shape ``(S,)``, in standard
        deviations of the noise: how much rounding has grown on the longest way there and back.
    """

    elbo: Float[Array, " S"]  # unbiased estimates, nats, one an orbit
    inversion_error: Float[Array, " S"]  # of the longest way there and back, largest coordinate


@module
class MixFlow:
    r"""The mixture of a Gaussian, or a flow, and its images under N - 1 repetitions of a map.

    .. math::
        q_N = \frac1N \sum_{n=0}^{N-1} T^n_\# q_0, \qquad
        \log q_N(s) = \log \frac1N \sum_{n=0}^{N-1}
            \frac{q_0(T^{-n} s)}{\prod_{j=1}^n J(T^{-j} s)}, \quad J = |\det ∂T|,

    on points s = (x, ρ, u) of the augmented space of `flows.hamiltonian`, where x are coordinates
    in which the start is standard normal: the noise of the flow, so that the map moves in a
    target that the flow has straightened. As T keeps the target's density, q_N converges to it, in
    total variation, as N grows, if T is ergodic. A draw applies T a uniform number of times to a
    draw of q_0; it is an exact, independent draw of q_N. `vi.fit` makes one from `flows.mixflow`.

    Log densities of draws are those of (x, ρ, u) less log m(ρ), so that ``log p - log_q`` are
    proper importance weights, and the ELBO is that of the augmented space, which is lower than
    the one of x alone.

    Reference: Xu, Chen and Campbell (2023), "MixFlows: principled variational inference via mixed
    flows", equations 3 and 4 and algorithms 1 and 2.

    Attributes:
      target: the `vi.Target`, whose score moves the points; None in a file.
      start: q_0, a `flows.Flow` whose base is N(0, I); a Gaussian is one without layers.
      map: T.
      inversion_error: what the tuning measured with this map: the error of N - 1 maps and their
        inverses that 95 % of the orbits keep below, in standard deviations of the noise; NaN if
        not measured.
      num_maps: N.
    """

    target: Any
    start: Flow
    map: HamiltonianMap
    inversion_error: Float[Array, ""]
    num_maps: int = static()

    @property
    def dim(self) -> int:
        """Number D of coordinates."""
        return self.start.dim

    @property
    def title(self) -> str:
        """What it is called in verdicts."""
        return f"MixFlow of {self.num_maps} maps from a {self.start.title}"

    @property
    def gradients_per_draw(self) -> int:
        """Gradients that a draw and its log density take, at least one."""
        return max(1, (self.num_maps - 1) * (int(self.map.num_leapfrog) + 1))

    # ---- draws and densities -----------------------------------------------------------------

    def sample(self, key: Array, num_samples: int | None = None) -> Float[Array, "*S D"]:
        """One draw of shape ``(D,)``, or ``num_samples`` of them."""
        return self.sample_and_log_prob(key, num_samples)[0]

    def sample_and_log_prob(
        self, key: Array, num_samples: int | None = None
    ) -> tuple[Float[Array, "*S D"], Float[Array, "*S"]]:
        """Independent draws and their log density, N - 1 maps each."""
        start, count_key = self._starts(key, num_samples or 1)
        counts = jax.random.randint(count_key, (num_samples or 1,), 0, self.num_maps)
        x, log_q = jax.vmap(self._draw)(start, counts)
        z, log_det = self.start.forward_and_log_det(x)
        log_q = log_q - log_det
        return (z[0], log_q[0]) if num_samples is None else (z, log_q)

    def log_prob(self, z: Float[Array, "... D"]) -> Float[Array, "..."]:
        """An estimate of the log of the density of z alone; leading axes are draws.

        The mean of the augmented density over m(ρ) is the density. It is estimated by 64 momenta
        and phases of a fixed stream, so the logarithm is too low on average, the more the
        momentum says of z. ``sample_and_log_prob`` has no such error.
        """
        flat, log_det = self.start.inverse_and_log_det(z.reshape(-1, self.dim))
        momentum_key, phase_key = jax.random.split(jax.random.key(0))
        shape, dtype = (_AUXILIARY, self.dim), flat.dtype
        momenta = self.map.sample_momentum(momentum_key, shape, dtype)
        phases = (jnp.arange(_AUXILIARY) + jax.random.uniform(phase_key)) / _AUXILIARY

        def at(x: Array) -> Array:
            one = lambda rho, u: self._log_density(Point(x, rho, u.astype(dtype)))
            each = jax.vmap(one)(momenta, phases)
            return jax.nn.logsumexp(each) - math.log(_AUXILIARY)

        log_q = jax.lax.map(at, flat) + log_det
        return log_q.reshape(z.shape[:-1])

    def augmented_log_prob(self, key: Array, z: Float[Array, "S D"]) -> Float[Array, " S"]:
        """Log densities of (z, ρ, u) less log m(ρ), with a momentum and a phase drawn for each z.

        What ``sample_and_log_prob`` returns for draws of its own: one estimate of the density of z,
        unbiased, so that weights of draws of another family against a mixture of it and this one
        are proper.

        Args:
          key: a key.
          z: points, draws of any family.

        Returns:
          The log densities, shape ``(S,)``.

        Complexity:
          N - 1 maps a point.
        """
        position, log_det = self.start.inverse_and_log_det(z)
        drawn, _ = self._starts(key, len(z))
        return jax.vmap(self._log_density)(drawn._replace(position=position)) + log_det

    def evaluate(self, key: Array, num_orbits: int) -> Evaluation:
        """ELBO and inversion error from the orbits of draws of q_0.

        An orbit of 2N - 1 points has N of them with their whole past in it; the mean of their
        log weights is unbiased for the ELBO. The N sums over windows of N terms are one sum over
        suffixes and one over prefixes, in log space.

        Args:
          key: a key.
          num_orbits: S.

        Returns:
          The estimates, each of shape ``(S,)``.

        Complexity:
          3 (N - 1) maps an orbit, O(N) memory.
        """
        starts, _ = self._starts(key, num_orbits)
        return jax.vmap(self._evaluate_orbit)(starts)

    def _evaluate_orbit(self, start: Point) -> Evaluation:
        n = self.num_maps

        def walk(at: Point, *, forward: bool) -> tuple[Point, Array, Array, Array]:
            """The end of N - 1 moves, and log q_0, log π m and the summed log J on the way."""

            def step(carry: tuple, _: None) -> tuple:
                at, log_j = carry
                at, change = self.map.move(self._score, at, jnp.asarray(forward))
                log_j = log_j + change
                return (at, log_j), (self._log_start(at), self._log_target(at), log_j)

            begin = (at, jnp.zeros((), at.position.dtype))
            (end, _), seen = jax.lax.scan(step, begin, None, length=n - 1)
            return end, *seen

        end, ahead, targets, gains = walk(start, forward=True)
        _, behind, _, losses = walk(start, forward=False)
        back, *_ = walk(end, forward=False)
        here = self._log_start(start)[None]
        terms = jnp.concatenate([(behind + losses)[::-1], here, ahead + gains])
        past = jax.lax.cumlogsumexp(terms[:n], reverse=True)
        future = jnp.concatenate([jnp.array([-jnp.inf]), jax.lax.cumlogsumexp(terms[n:])])
        windows = jnp.logaddexp(past, future.astype(past.dtype))
        passed = jnp.concatenate([jnp.zeros(1, gains.dtype), gains])
        log_q = windows - passed - math.log(n)
        log_p = jnp.concatenate([self._log_target(start)[None], targets])
        error = jnp.max(jnp.abs(back.position - start.position))
        return Evaluation(jnp.mean(log_p - log_q), error)

    def _draw(self, start: Point, count: Array) -> tuple[Array, Array]:
        """The position after ``count`` maps, and the log density there less log m(ρ).

        The past of the end is the way there, and what lies behind the start.
        """

        def step(carry: tuple, i: Array) -> tuple:
            at, log_j, end, passed = carry
            turn = i == count  # all maps forward are made: go back from the start
            at = jax.tree.map(lambda a, b: jnp.where(turn, a, b), start, at)
            log_j = jnp.where(turn, 0.0, log_j)
            forward = i < count
            at, change = self.map.move(self._score, at, forward)
            log_j = log_j + change
            end = jax.tree.map(lambda a, b: jnp.where(forward, a, b), at, end)
            passed = jnp.where(forward, log_j, passed)
            return (at, log_j, end, passed), self._log_start(at) + log_j

        zero = jnp.zeros((), start.position.dtype)
        begin = (start, zero, start, zero)
        carry, terms = jax.lax.scan(step, begin, jnp.arange(self.num_maps - 1))
        _, _, end, passed = carry
        log_q = jax.nn.logsumexp(jnp.append(terms, self._log_start(start)))
        log_q = log_q - passed - math.log(self.num_maps)
        return end.position, log_q - self.map.log_momentum(end.momentum)

    def _log_density(self, at: Point) -> Array:
        """Log q_N less log m(ρ) at a point."""

        def step(carry: tuple, _: None) -> tuple:
            at, log_j = carry
            at, change = self.map.move(self._score, at, jnp.asarray(False))  # noqa: FBT003
            return (at, log_j + change), self._log_start(at) + log_j + change

        begin = (at, jnp.zeros((), at.position.dtype))
        _, terms = jax.lax.scan(step, begin, None, length=self.num_maps - 1)
        log_q = jax.nn.logsumexp(jnp.append(terms, self._log_start(at)))
        return log_q - math.log(self.num_maps) - self.map.log_momentum(at.momentum)

    def _starts(self, key: Array, num: int) -> tuple[Point, Array]:
        """Draws of q_0, and a key for more."""
        keys = jax.random.split(key, 4)
        dtype = self.start.dtype
        position = jax.random.normal(keys[0], (num, self.dim), dtype)
        momentum = self.map.sample_momentum(keys[1], (num, self.dim), dtype)
        return Point(position, momentum, jax.random.uniform(keys[2], (num,), dtype)), keys[3]

    def _log_start(self, at: Point) -> Array:
        squares = jnp.sum(at.position**2, axis=-1)
        normal = -0.5 * squares - 0.5 * self.dim * math.log(2 * math.pi)
        return normal + self.map.log_momentum(at.momentum)

    def _log_position(self, x: Array) -> Array:
        z, log_det = self.start.forward_and_log_det(x)
        return self.target.log_density(z) + log_det

    def _log_target(self, at: Point) -> Array:
        return self._log_position(at.position) + self.map.log_momentum(at.momentum)

    @property
    def _score(self) -> Callable[[Array], Array]:
        return jax.grad(self._log_position)

    # ---- moments -----------------------------------------------------------------------------

    @property
    def loc(self) -> Float[Array, " D"]:
        """Mean of 1024 draws of a fixed stream."""
        return jnp.mean(self._draws(), axis=0)

    def covariance(self) -> Float[Array, "D D"]:
        """Covariance of the same draws."""
        draws = self._draws()
        centred = draws - jnp.mean(draws, axis=0)
        return centred.T @ centred / _MOMENT_DRAWS

    def variance(self) -> Float[Array, " D"]:
        """Variances of the same draws."""
        return jnp.var(self._draws(), axis=0)

    def _draws(self) -> Array:
        return self.sample(jax.random.key(0), _MOMENT_DRAWS)

    # ---- files -------------------------------------------------------------------------------

    def detached(self) -> "MixFlow":
        """The family without its target, as it is saved."""
        return dataclasses.replace(self, target=None)

    def attached(self, target: Any) -> "MixFlow":
        """The family with a target, as it is loaded."""
        return dataclasses.replace(self, target=target)
