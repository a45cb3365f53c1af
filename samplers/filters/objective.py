"""Variational sequential Monte Carlo as a loss of NumPyro's SVI."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from samplers.filters.filter import StateSpace, particle_filter
from samplers.filters.resampling import Resampling, Transport
from vi.errors import TargetError
from vi.module import module, static


@module
class FilteringELBO:
    r"""The objective of variational sequential Monte Carlo, for ``numpyro.infer.SVI``.

    .. math:: E[\log \hat p_θ(y_{1:T})] \le \log p_θ(y_{1:T})

    with the estimate of `particle_filter`. The model is a NumPyro program that declares its
    parameters by ``numpyro.param`` and returns a `StateSpace`; the guide declares its own and
    returns a proposal, or None to propose by the transition. The first argument of both is the
    series. More particles make the bound tighter.

    Attributes:
      num_particles: N.
      resampling: as for `particle_filter`. No kind gives an unbiased gradient of this objective: by
        ``"score"`` it is that of log p(y) up to a bias of 1/N; ``"soft"`` and ``"none"``, usual in
        variational SMC, are biased with less noise. See `Resampling`.
      threshold: as for `particle_filter`.

    Reference: Naesseth, Linderman, Ranganath and Blei (2018), "Variational sequential Monte
    Carlo", Equation 3.

    Example:
      >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
      >>> from numpyro.infer import SVI
      >>> from samplers.filters import FilteringELBO, StateSpace
      >>> def model(y):
      ...     step = numpyro.param("step", 0.1, constraint=dist.constraints.positive)
      ...     first = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
      ...     move = lambda z, t: dist.Normal(z, step).to_event(1)
      ...     return StateSpace(first, move, lambda z, t: dist.Normal(z, 0.3).to_event(1))
      >>> y = jnp.cumsum(jax.random.normal(jax.random.key(0), (50, 1)), 0)
      >>> svi = SVI(model, lambda y: None, numpyro.optim.Adam(0.1), FilteringELBO(20))
      >>> found = svi.run(jax.random.key(1), 60, y, progress_bar=False)
      >>> bool(0.5 < found.params["step"] < 2.0)
      True
    """

    num_particles: int = static(default=100)
    resampling: Resampling | Transport | None = None
    threshold: float | Array = 0.5

    can_infer_discrete = True  # asked for by numpyro.infer.SVI: states may be discrete

    def loss(
        self,
        rng_key: Array,
        param_map: dict,
        model: Callable,
        guide: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Float[Array, ""]:
        """Minus the estimate; called by SVI.

        Raises:
          TargetError: if the programs have sample sites or return something else.
        """
        series = next(iter((*args, *kwargs.values())))
        space = _run(model, param_map, "model", args, kwargs)
        proposal = _run(guide, param_map, "guide", args, kwargs)
        if not isinstance(space, StateSpace) or not (proposal is None or callable(proposal)):
            raise TargetError(
                "FilteringELBO: expected a model that returns a StateSpace and a guide that "
                "returns a proposal (z, y, t) -> distribution or None; got "
                f"{type(space).__name__} and {type(proposal).__name__}."
            )
        found = particle_filter(
            rng_key, series, space, num_particles=self.num_particles, proposal=proposal,
            resampling=self.resampling, threshold=self.threshold,
        )  # fmt: skip
        return -found.log_evidence


def _run(program: Callable, params: dict, role: str, args: tuple, kwargs: dict) -> Any:
    """What a program returns at given parameters; it may not have sample sites."""
    from numpyro.handlers import seed, substitute, trace

    returned: list[Any] = []

    def call() -> None:
        returned.append(program(*args, **kwargs))

    sites = trace(seed(substitute(call, data=params), jax.random.key(0))).get_trace()
    drawn = [name for name, site in sites.items() if site["type"] == "sample"]
    if drawn:
        raise TargetError(
            f"FilteringELBO: expected a {role} with parameters alone; it has the sample sites "
            f"{drawn}. States belong into the StateSpace; other latents into numpyro.param."
        )
    return returned[0]
