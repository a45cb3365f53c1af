"""NumPyro's SVI, compiled once: the same signature, the same results."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from vi.errors import LOOKS_AT_DATA
from vi.program import Objective
from vi.targets.arguments import Arguments
from vi.targets.identity import key_after_run, model_key

if TYPE_CHECKING:
    from numpyro.infer.svi import SVIRunResult, SVIState

CHUNK = 100  # steps


class SVI:
    """Stochastic variational inference with a NumPyro guide: a drop-in for ``numpyro.infer.SVI``.

    Steps, states, keys and results are NumPyro's own. What differs is `run`: the compiled chunk
    of steps is kept, with the data as arguments, so that a second call, with new data of the same
    shape or from another state, does not compile again unless a global or another value that model
    or guide read has been replaced; and a progress bar does not slow it.

    Args:
      model: a NumPyro model.
      guide: a NumPyro guide or autoguide.
      optim: a NumPyro optimizer or an optax transformation, those that ask for an oracle of the
        loss (``value_fn``) included.
      loss: a NumPyro ELBO or an objective such as ``vi.elbo(num_particles=10)``, whose
        scheduled options (`vi.scheduled`) follow the steps of the state.
      **static_kwargs: arguments of model and guide that do not change.

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax, vi
      >>> from numpyro.infer.autoguide import AutoNormal
      >>> def model(y):
      ...     mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
      ...     numpyro.sample("y", dist.Normal(mu, 1.0).expand(y.shape).to_event(1), obs=y)
      >>> svi = vi.SVI(model, AutoNormal(model), optax.adam(0.05), vi.elbo(num_particles=4))
      >>> result = svi.run(jax.random.key(0), 500, jnp.full(20, 3.0), progress_bar=False)
      >>> bool(abs(result.params["mu_auto_loc"] - 3.0) < 0.2)
      True
    """

    def __init__(
        self, model: Callable, guide: Callable, optim: Any, loss: Any, **static_kwargs: Any
    ):
        from numpyro.infer import SVI as NumPyroSVI

        from vi.oracle_optimizer import OracleOptimizer

        if isinstance(optim, optax.GradientTransformation):
            optim = OracleOptimizer(optim)
        self._svi = NumPyroSVI(model, guide, optim, loss, **static_kwargs)
        self.model, self.guide, self.loss = model, guide, loss
        self.optim, self.static_kwargs = self._svi.optim, static_kwargs
        self._chunks: dict[tuple, Callable] = {}

    def init(
        self, rng_key: Array, *args: Any, init_params: Any = None, **kwargs: Any
    ) -> "SVIState":
        """The initial state; as NumPyro's. What estimators remember is in its mutable state."""
        from vi.program.objective import RUNNING, Objective

        state = self._svi.init(rng_key, *args, init_params=init_params, **kwargs)
        running = self.loss.running if isinstance(self.loss, Objective) else {}
        if running and state.mutable_state is None:
            return state._replace(mutable_state={RUNNING: running})
        return state

    def get_params(self, svi_state: "SVIState") -> dict[str, Array]:
        """Constrained values of the ``param`` sites; as NumPyro's."""
        return self._svi.get_params(svi_state)

    def update(self, svi_state: "SVIState", *args: Any, **kwargs: Any) -> tuple["SVIState", Array]:
        """One step, and the loss before it; as NumPyro's."""
        return self._at(svi_state).update(svi_state, *args, **kwargs)

    def stable_update(
        self, svi_state: "SVIState", *args: Any, **kwargs: Any
    ) -> tuple["SVIState", Array]:
        """One step that is skipped if it leads to a non-finite loss or state; as NumPyro's."""
        return self._at(svi_state).stable_update(svi_state, *args, **kwargs)

    def evaluate(self, svi_state: "SVIState", *args: Any, **kwargs: Any) -> Array:
        """The loss at a state; as NumPyro's."""
        return self._at(svi_state).evaluate(svi_state, *args, **kwargs)

    def _at(self, svi_state: "SVIState") -> Any:
        """NumPyro's SVI with the objective's scheduled options at the state's step."""
        if not (isinstance(self.loss, Objective) and self.loss.schedules):
            return self._svi
        now = copy.copy(self._svi)
        now.loss = self.loss.at(svi_state.optim_state[0])
        return now

    def run(
        self,
        rng_key: Array,
        num_steps: int,
        *args: Any,
        progress_bar: bool = True,
        stable_update: bool = False,
        forward_mode_differentiation: bool = False,
        init_state: "SVIState | None" = None,
        init_params: Any = None,
        **kwargs: Any,
    ) -> "SVIRunResult":
        """Take ``num_steps`` steps; arguments and result as NumPyro's.

        Args:
          rng_key: a key.
          num_steps: at least 1.
          *args: arguments of model and guide.
          progress_bar: show a bar, updated every 100 steps.
          stable_update: skip steps that lead to non-finite values.
          forward_mode_differentiation: differentiate in forward mode.
          init_state: a state to continue from.
          init_params: initial values of ``param`` sites.
          **kwargs: keyword arguments of model and guide.

        Returns:
          ``(params, state, losses)``, losses of shape ``(num_steps,)``.

        Raises:
          ValueError: if ``num_steps`` is less than 1.
        """
        from numpyro.infer.svi import SVIRunResult

        if num_steps < 1:
            raise ValueError(f"SVI.run: expected num_steps >= 1; got {num_steps}.")
        state = init_state
        if state is None:
            state = self.init(rng_key, *args, init_params=init_params, **kwargs)
        mode = (stable_update, forward_mode_differentiation)
        try:
            state, losses = self._run(
                state, num_steps, args, kwargs, mode, progress_bar, bake=False
            )
        except LOOKS_AT_DATA:
            state, losses = self._run(state, num_steps, args, kwargs, mode, progress_bar, bake=True)
        return SVIRunResult(self.get_params(state), state, jnp.asarray(losses))

    def _run(
        self,
        state: "SVIState",
        num_steps: int,
        args: tuple,
        kwargs: dict,
        mode: tuple[bool, bool],
        progress_bar: bool,  # noqa: FBT001
        *,
        bake: bool,
    ) -> tuple["SVIState", np.ndarray]:
        arguments = Arguments(args, kwargs, bake=bake)
        data = arguments.data(args, kwargs)
        programs = [self.model, self.guide]
        keys = [model_key(program) for program in programs]
        chunk = self._chunk((arguments, *mode, *keys), arguments, mode)
        losses: list[np.ndarray] = []
        with _bar(num_steps, on=progress_bar) as bar:
            for first in range(0, num_steps, CHUNK):
                count = min(CHUNK, num_steps - first)
                state, part = chunk(state, data, np.int32(count))
                losses.append(np.asarray(part)[:count])
                bar.update(count)
                if progress_bar:
                    mean = (
                        float(np.nanmean(losses[-1])) if np.isfinite(losses[-1]).any() else np.nan
                    )
                    bar.set_postfix_str(f"init loss: {losses[0][0]:.4f}, avg. loss: {mean:.4f}")
        known = [key_after_run(p, key) for p, key in zip(programs, keys, strict=True)]
        self._chunks[(arguments, *mode, *known)] = chunk
        return state, np.concatenate(losses)

    def _chunk(self, key: tuple, arguments: Arguments, mode: tuple[bool, bool]) -> Callable:
        if key not in self._chunks:
            stable, forward = mode
            step = self.stable_update if stable else self.update

            def run(state: "SVIState", data: list, count: Array) -> tuple["SVIState", Array]:
                args, kwargs = arguments.join(data)
                take = lambda s: step(s, *args, forward_mode_differentiation=forward, **kwargs)
                shape = jax.eval_shape(take, state)[1]
                blank = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shape)

                def body(state: "SVIState", i: Array) -> tuple["SVIState", Array]:
                    return jax.lax.cond(i < count, take, lambda s: (s, blank), state)

                return jax.lax.scan(body, state, jnp.arange(CHUNK))

            self._chunks[key] = jax.jit(run)
        return self._chunks[key]


def _bar(total: int, *, on: bool) -> Any:
    import tqdm

    return tqdm.tqdm(total=total, disable=not on)
