r"""Natural gradients for mixtures of Gaussians.

With f = log p - log q and q's own parameters stopped, the gradient of the ELBO in component k is
that of :math:`w_k E_{N_k}[f]`, since the score of q has mean zero. So each component takes the
step that a single Gaussian takes (`vi.gaussian.refine`), with X = -Lᵀ E_k[∇²f] L for the excess
and Lᵀ E_k[∇f] for the gradient, both by the spherical-radial rule; at K = 1 the two are equal.
The weights take natural-gradient steps too: log w_k moves by the gain times E_k[f]. (Lin, Khan
and Schmidt 2019, "Fast and simple natural-gradient variational inference with mixture of
exponential-family approximations"; Arenz, Dahlinger, Ye, Volpp and Neumann 2023, "A unified
perspective on natural gradient variational inference with Gaussian mixture models".)
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi.compile import quick_jit
from vi.families import Gaussian, Mixture
from vi.families.scale import DenseScale
from vi.gaussian import refine
from vi.gaussian.root import DenseRoot
from vi.gaussian.spherical import directions_of, estimate
from vi.provenance import data_digest, key_words, model_digest, tree_digest
from vi.random import host_generator
from vi.status import Status
from vi.targets import Target
from vi.threads import blas_threads

CHUNK = 10  # steps
CHUNKS = 8  # of moving, then half as many of averaging
MAX_LOGIT_STEP = 0.5


class MixtureState(NamedTuple):
    """Components on their way, and their weights; a pytree, to be checkpointed."""

    logits: Float[Array, " K"]
    components: refine.RefineState  # every leaf has a leading axis K
    chunk: int
    status: int
    history: np.ndarray
    gradients: int


@quick_jit
def _run_chunk(
    rotations: Float[Array, "T K D D"],
    logits: Float[Array, " K"],
    components: refine.RefineState,
    target: Target,
) -> tuple[Array, refine.RefineState, Array]:
    dim = rotations.shape[-1]
    radius = math.sqrt(dim + 2)

    def step(carry: tuple, directions: Array) -> tuple:
        logits, components = carry
        q = as_mixture(logits, components)
        excess = jax.value_and_grad(lambda z: target.log_density(z) - q.log_prob(z))

        def one(component: refine.RefineState, directions: Array) -> tuple:
            no_entropy = -0.5 * dim * (1 + math.log(2 * math.pi))
            at = (component.loc, component.root, no_entropy)
            seen = estimate(lambda z: target.structure.cost.map(excess, z), *at, directions, radius)
            eye = jnp.eye(dim, dtype=component.loc.dtype)
            curvature = DenseRoot(seen.excess.matrix + eye)  # f has q's own curvature taken off
            moved, _ = refine.update(seen._replace(excess=curvature), component)
            return moved, seen.elbo, seen.finite

        new, gains, finite = jax.vmap(one)(components, directions)
        weights = jax.nn.softmax(logits)
        gains = jnp.where(finite, gains, 0.0)
        elbo = weights @ gains
        change = jnp.mean(components.gain) * (gains - elbo)
        logits = logits + jnp.clip(change, -MAX_LOGIT_STEP, MAX_LOGIT_STEP)
        return (logits, new), jnp.where(jnp.all(finite), elbo, jnp.nan)

    (logits, components), elbos = jax.lax.scan(step, (logits, components), rotations)
    return logits, components, elbos


class MixtureSolver:
    """Finds the best mixture of K full-rank Gaussians from a given one; a `vi.loop.Run`."""

    def __init__(self, target: Target, key: Array, start: Mixture):
        """Set up.

        Args:
          target: the target.
          key: a key; all draws are made from it on the host.
          start: a mixture of dense Gaussians.
        """
        self.target, self.key, self.start = target, key, start

    def initial(self) -> MixtureState:
        """The state before the first chunk."""
        each = []
        for k in range(self.start.num_components):
            component = jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]), self.start.components)
            tril = np.asarray(component.scale.tril)
            log_det = float(np.sum(np.log(np.abs(np.diag(tril)))))
            each.append(refine.init(component.loc, DenseRoot(tril), log_det))
        components = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
        logits = np.asarray(self.start.logits)
        return MixtureState(logits, components, 0, int(Status.RUNNING), np.zeros(0), 0)

    def advance(self, state: MixtureState) -> MixtureState:
        """Run one chunk: of moving in the first two thirds, of averaging after."""
        with blas_threads(self.target.dim):
            return self._advance(state)

    def _advance(self, state: MixtureState) -> MixtureState:
        k, dim = self.start.num_components, self.target.dim
        generator, dtype = host_generator(self.key, 4, k, state.chunk), self.target.layout.dtype
        rotations = directions_of(generator.normal(size=(CHUNK, k, dim, dim)).astype(dtype))
        averaging = np.full(k, state.chunk >= CHUNKS)
        components = state.components._replace(averaging=averaging)
        logits, components, elbos = _run_chunk(rotations, state.logits, components, self.target)
        elbos = np.asarray(elbos, float)
        kept = elbos[np.isfinite(elbos)]
        chunk = state.chunk + 1
        failed = bool(np.any(np.asarray(components.status) != Status.RUNNING))
        status = Status.NONFINITE if failed else Status.RUNNING
        if not failed and chunk == CHUNKS + CHUNKS // 2:
            status = Status.CONVERGED
        return MixtureState(
            logits=logits,
            components=components,
            chunk=chunk,
            status=int(status),
            history=np.append(state.history, kept.mean() if len(kept) else math.nan),
            gradients=state.gradients + CHUNK * k * (2 * dim + 1),
        )

    def done(self, state: MixtureState) -> bool:
        """Whether there is nothing left to do."""
        return state.status != Status.RUNNING

    def info(self, state: MixtureState) -> dict[str, Any]:
        """Step, ELBO as the last chunk saw it, and gradients so far."""
        elbo = float(state.history[-1]) if len(state.history) else math.nan
        return {"step": state.chunk * CHUNK, "elbo": elbo, "gradients": state.gradients}

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree on."""
        return {
            "kind": "mixture",
            "components": self.start.num_components,
            "data": data_digest(self.target),
            "model": model_digest(self.target),
            "start": tree_digest(self.start),
            "key": key_words(self.key),
        }

    def result(self, state: MixtureState) -> Mixture:
        """The mixture as it stands."""
        return as_mixture(jnp.asarray(state.logits), jax.tree.map(jnp.asarray, state.components))

    def cost(self) -> int:
        """Gradients that a whole run takes."""
        steps = CHUNK * (CHUNKS + CHUNKS // 2)
        return steps * self.start.num_components * (2 * self.target.dim + 1)


def as_mixture(logits: Array, components: refine.RefineState) -> Mixture:
    """The mixture that a state stands for; its roots are lower triangular."""
    return Mixture(logits, Gaussian(components.loc, DenseScale(components.root.dense().matrix)))


def add_component(q: Gaussian | Mixture, draws: np.ndarray, log_ratios: np.ndarray) -> Mixture:
    """A mixture with one component more, where draws say that q has too little mass.

    The new component is centred at a weighted mean of the draws of q with the largest importance
    weights around the largest, as wide as the component it stands by.

    Args:
      q: a dense Gaussian, or a mixture of them.
      draws: from q, shape ``(S, D)``.
      log_ratios: log p - log q there, shape ``(S,)``.

    Returns:
      The mixture, to be refined.
    """
    if isinstance(q, Gaussian):
        q = Mixture(jnp.zeros(1), jax.tree.map(lambda leaf: leaf[None], q))
    locs = np.asarray(q.components.loc)
    raws = np.asarray(q.components.scale.raw)
    ratios = np.where(np.isfinite(log_ratios), log_ratios, -np.inf)
    best = draws[int(np.argmax(ratios))]
    offsets = [np.linalg.solve(np.tril(r), (best - m)) for r, m in zip(raws, locs, strict=True)]
    near = int(np.argmin([np.sum(o**2) for o in offsets]))
    whitened = np.linalg.solve(np.tril(raws[near]), (draws - best).T).T
    close = np.sum(whitened**2, 1) < max(1.0, 0.25 * draws.shape[1])
    weights = np.where(close, np.exp(np.clip(ratios - ratios.max(), -50, 0)), 0.0)
    loc = weights @ draws / weights.sum()
    dtype = locs.dtype
    logits = np.asarray(jax.nn.log_softmax(q.logits))
    new_logit = math.log(0.2 / 0.8)
    return Mixture(
        jnp.asarray(np.append(logits, new_logit).astype(dtype)),
        Gaussian(
            jnp.asarray(np.concatenate([locs, loc[None]]).astype(dtype)),
            DenseScale(jnp.asarray(np.concatenate([raws, 0.7 * raws[near][None]]).astype(dtype))),
        ),
    )
