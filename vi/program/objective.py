"""Objectives: ordinary Python functions of a target and a family."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vi.errors import TargetError
from vi.module import module, static
from vi.program.estimate import estimate
from vi.program.estimators import Estimator, Relaxed, RunningScore, SiteEstimator
from vi.program.requirements import Requirement, check_estimator_options, check_options
from vi.program.views import FamilySource
from vi.targets import Target

RUNNING = "_running"  # name of the estimators' states among NumPyro's mutable ones


@dataclasses.dataclass(frozen=True)
class Scheduled:
    """An option of an objective that depends on the step; made by `scheduled`."""

    of_step: Callable[[Any], Any]


def scheduled(of_step: Callable[[Any], Any]) -> Scheduled:
    """An option of an objective as a function of the step, such as an optax schedule.

    Any numeric option may be scheduled that the objective does not need as a Python number, such
    as ``temperature``, ``emphasis``, ``beta`` and ``alpha``. Steps are counted from zero.

    Args:
      of_step: maps the number of steps taken so far to the option's value.

    Returns:
      What to give as the option.

    Example:
      >>> import jax, jax.numpy as jnp, optax, vi
      >>> warm_up = vi.scheduled(optax.linear_schedule(0.01, 1.0, 500))
      >>> target = vi.target(lambda x: -0.5 * jnp.sum((x - 2) ** 2), jnp.zeros(2))
      >>> annealed = vi.tempered_elbo(temperature=warm_up, num_particles=4)
      >>> posterior = vi.fit(target, key=jax.random.key(0), objective=annealed, num_steps=1000)
      >>> bool(abs(posterior.q.loc[0] - 2) < 0.2)
      True
    """
    return Scheduled(of_step)


@module
class Objective:
    """A program with its options and the estimator that differentiates it.

    It is a value: replace the estimator with ``dataclasses.replace``. It is also a loss that
    ``numpyro.infer.SVI`` accepts.

    Attributes:
      estimator: for all sites; or a dictionary by site, ``"*"`` for the rest; or None, for the
        default of each: pathwise where the site is reparameterised, enumeration where its
        support has up to 64 values, leave-one-out score otherwise.
      program: the function of the views p and q.
      options: its options, apart from arrays.
      arrays: those options that are JAX arrays; they may change without a new compilation.
      schedules: those that are functions of the step (`scheduled`); `at` gives them values, as
        `vi.fit` and `vi.SVI` do at each step.
    """

    estimator: Estimator | None
    program: Callable = static()
    options: tuple[tuple[str, Any], ...] = static(default=())
    arrays: dict[str, Array] = dataclasses.field(default_factory=dict)
    schedules: tuple[tuple[str, Scheduled], ...] = static(default=())

    can_infer_discrete = True  # asked for by numpyro.infer.SVI

    def __repr__(self) -> str:
        """The call that makes it."""
        given = [*self.options, *self.arrays.items(), *self.schedules]
        options = "".join(f"{name}={value!r}, " for name, value in given)
        return f"{self.program.__qualname__}({options}estimator={self.estimator!r})"

    def value(self, key: Array, q: Any, target: Target) -> Float[Array, ""]:
        """One estimate of the objective, in nats, to be maximised; its gradient is unbiased.

        Args:
          key: consumed; the same key gives the same draws and the same minibatch.
          q: a family.
          target: the target.

        Returns:
          Shape ``()``.
        """
        path_key, batch_key = jax.random.split(key)
        batch_key = batch_key if target.subsampled else None
        name = self.program.__name__
        source = FamilySource(name, path_key, batch_key, q, target, self.estimator)
        return estimate(self._run, source)

    def at(self, step: Array | int) -> "Objective":
        """The objective at a step: scheduled options have their values there.

        Args:
          step: number of steps taken so far; may be traced.
        """
        values = {name: jnp.asarray(option.of_step(step)) for name, option in self.schedules}
        return dataclasses.replace(self, arrays={**self.arrays, **values}, schedules=())

    def _run(self, p: Any, q: Any) -> Any:
        if self.schedules:
            raise ValueError(
                f"{self.program.__name__}: expected a step for the scheduled options "
                f"{[name for name, _ in self.schedules]}. vi.fit and vi.SVI give it; elsewhere "
                "take the objective at a step, objective.at(step)."
            )
        return self.program(p, q, **dict(self.options), **self.arrays)

    def __call__(self, key: Array, q: Any, target: Target) -> tuple[Float[Array, ""], Any]:
        """Loss (minus the objective) and its gradient, a pytree like ``q``."""
        return jax.value_and_grad(lambda q: -self.value(key, q, target))(q)

    def loss(
        self,
        rng_key: Array,
        param_map: dict[str, Array],
        model: Callable,
        guide: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> Float[Array, ""]:
        """Minus the objective of a NumPyro model and guide: the protocol of NumPyro's losses."""
        from vi.program.guide import GuideSource

        name = self.program.__name__
        source = GuideSource(name, rng_key, model, guide, param_map, self.estimator, args, kwargs)
        return -estimate(self._run, source)

    @property
    def running(self) -> dict[str, RunningScore]:
        """The estimators that have a state, by site; ``"*"`` where one is for all."""
        given = self.estimator if isinstance(self.estimator, dict) else {"*": self.estimator}
        return {name: how for name, how in given.items() if isinstance(how, RunningScore)}

    def with_running(self, running: dict[str, RunningScore]) -> "Objective":
        """The same, with other states of its estimators; as `running` gives them."""
        if not running:
            return self
        given = self.estimator
        new = {**given, **running} if isinstance(given, dict) else running["*"]
        return dataclasses.replace(self, estimator=new)

    def update(self, value: Float[Array, ""]) -> "Objective":
        """The objective after one more estimate of it: what `RunningScore` remembers.

        Args:
          value: the estimate, minus the loss; not differentiated.

        Returns:
          The same objective; itself, if its estimators have no state.
        """
        return self.with_running({name: how.update(value) for name, how in self.running.items()})

    def plan(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> str:
        """How each site of a guide is differentiated, as a table to print.

        Args:
          model: a NumPyro model.
          guide: a NumPyro guide.
          *args: their arguments.
          **kwargs: their keyword arguments.

        Returns:
          One line for each site: its distribution, plates, estimator, who chose it, and whether
          it is biased.

        Raises:
          TargetError: for an estimator that a site does not allow.

        Example:
          >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, vi
          >>> def guide():
          ...     scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
          ...     with numpyro.plate("rows", 5):
          ...         numpyro.sample("on", dist.Bernoulli(0.5 * jnp.ones(5)))
          ...         numpyro.sample("count", dist.Poisson(scale))
          >>> print(vi.elbo(num_particles=2).plan(guide, guide))
          site   distribution    plates  estimator
          scale  LogNormal       -       Pathwise() (default)
          on     BernoulliProbs  rows    Enumerate() (default)
          count  Poisson         rows    Score(baseline='leave_one_out') (default)
        """
        from vi.program.sites import discover

        structure = discover(guide, model, {}, args, kwargs, self.estimator)
        table = [("site", "distribution", "plates", "estimator")]
        for site in structure.sites.values():
            how = "follows from the others" if site.fixed else repr(site.estimator)
            note = "" if site.chosen or site.fixed else " (default)"
            note += " (biased)" if isinstance(site.estimator, Relaxed) else ""
            plates = ", ".join(sorted(site.plates)) or "-"
            table.append((site.name, site.kind, plates, how + note))
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        rows = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
        return "\n".join(rows)

    def loss_with_mutable_state(
        self, rng_key: Array, param_map: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """What NumPyro calls when there is a state beside the parameters: of `RunningScore`.

        `vi.SVI` puts the state there. Arguments are those of `loss`.

        Returns:
          The loss and the state after it.

        Raises:
          TargetError: for ``numpyro.mutable`` sites; objectives here are for models without.
        """
        if RUNNING not in param_map:
            raise TargetError(
                f"{self.program.__name__}: expected no numpyro.mutable sites; the guide or model "
                "has some. Use numpyro.infer.Trace_ELBO as the loss of models with mutable state."
            )
        objective = self.with_running(param_map[RUNNING])
        params = {name: x for name, x in param_map.items() if name != RUNNING}
        loss = objective.loss(rng_key, params, *args, **kwargs)
        return {"loss": loss, "mutable_state": {RUNNING: objective.update(-loss).running}}


@overload
def objective(program: Callable) -> Callable[..., Objective]: ...
@overload
def objective(
    *, requires: dict[str, Any] | None = None
) -> Callable[[Callable], Callable[..., Objective]]: ...
def objective(
    program: Callable | None = None, *, requires: dict[str, Any] | None = None
) -> Callable:
    """Make an objective of a program: a function of views of a target and of a family.

    The program's effect is sampling, ``q.sample(num_particles)`` or
    ``q.expect(f, num_particles)``; densities are ``p.log_density(z)`` and
    ``q.log_density(z)``, one value for each draw. It returns a scalar to be maximised, or a
    `Penalised` value. What is returned is differentiated so that the gradient is unbiased for
    that of its mean, under the estimator chosen.

    A program is written for one datum: with a guide whose random sites are all in a plate, it is
    run for each row, and its values are summed and scaled. Where it is linear in the log
    densities this makes no difference.

    Args:
      program: called as ``program(p, q, **options)``; options are keyword-only. If it is not
        given, the result is a decorator.
      requires: what options must be, by name: pairs of words and a function, such as
        ``{"beta": ("in [0, 1]", lambda x: (x >= 0) & (x <= 1))}``; values other than schedules
        are checked when an objective is made.

    Returns:
      A constructor, ``(*, estimator=None, **options) -> Objective``.

    Example:
      >>> import jax, jax.numpy as jnp, vi
      >>> @vi.objective
      ... def iwelbo(p, q, *, num_particles):
      ...     z = q.sample(num_particles)
      ...     log_w = p.log_density(z) - q.log_density(z)
      ...     return jax.nn.logsumexp(log_w) - jnp.log(num_particles)
      >>> target = vi.target(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
      >>> loss, grads = iwelbo(num_particles=8)(jax.random.key(0), vi.mean_field(2), target)
      >>> grads.loc.shape
      (2,)
    """
    if program is None:
        return functools.partial(objective, requires=requires)
    required = {name: Requirement(*each) for name, each in (requires or {}).items()}

    @functools.wraps(program)
    def make(*, estimator: Estimator | None = None, **options: Any) -> Objective:
        _check_call(program, estimator, options)
        fixed = {name: x for name, x in options.items() if not isinstance(x, Scheduled)}
        check_options(program.__name__, fixed, required)
        named = sorted(options.items())
        arrays = {name: x for name, x in named if isinstance(x, jax.Array)}
        schedules = tuple((name, x) for name, x in named if isinstance(x, Scheduled))
        apart = (jax.Array, Scheduled)
        rest = ((name, _frozen(x)) for name, x in named if not isinstance(x, apart))
        return Objective(estimator, program, tuple(rest), arrays, schedules)

    return make


def _check_call(program: Callable, estimator: Any, options: dict[str, Any]) -> None:
    """Raise a `TypeError` for options that the program has not, or lacks, and for no estimator."""
    name = program.__name__
    try:
        inspect.signature(program).bind(None, None, **options)
    except TypeError as error:
        has = list(inspect.signature(program).parameters)[2:]
        raise TypeError(f"{name}: expected options out of {has}; {error}.") from None
    for each in estimator.values() if isinstance(estimator, dict) else (estimator,):
        if not isinstance(each, (*get_args(SiteEstimator), type(None))):
            raise TypeError(
                f"{name}: expected an estimator, an instance such as vi.Score(), or a dictionary "
                f"of them by site; got {each!r}."
            )
        check_estimator_options(name, each)


def _frozen(x: Any) -> Any:
    """Lists and dictionaries as tuples, so that they can be part of what is compiled for."""
    if isinstance(x, dict):
        return tuple(sorted(x.items()))
    return tuple(map(_frozen, x)) if isinstance(x, (list, tuple)) else x


_ANALYTIC = Requirement("in ('entropy', 'kl') or None", lambda x: x in ("entropy", "kl", None))


@objective(requires={"analytic": _ANALYTIC})
def elbo(
    p: Any, q: Any, *, num_particles: int = 1, analytic: Literal["entropy", "kl"] | None = None
) -> Float[Array, ""]:
    r"""Evidence lower bound.

    .. math:: \mathrm{ELBO} = E_q[\log p(z, y) - \log q(z)] = E_q[\log p(z, y)] + H[q]
        = E_q[\log p(y \mid z)] - KL(q(z) \| p(z)) \le \log p(y)

    Args:
      p: view of the target.
      q: view of the family or guide.
      num_particles: draws the expectation is estimated with.
      analytic: take the entropy of q, or its divergence from the prior of a NumPyro model, in
        closed form, site by site where there is one. At the posterior, where the parts of the
        sampled form cancel, it is the noisier of the two.

    Returns:
      Unbiased estimate, shape ``()``, nats.

    Raises:
      ValueError: for another ``analytic``.

    Reference: Kingma and Welling (2014), "Auto-encoding variational Bayes", equations 6 and 7.
    """
    if analytic is None:
        return q.expect(lambda z: p.log_density(z) - q.log_density(z), num_particles)
    if analytic == "entropy":
        return q.expect(lambda z: p.log_density(z) + q.entropy(z), num_particles)
    return q.expect(lambda z: p.log_likelihood(z) - q.kl(z), num_particles)


def with_estimator(of: Objective, estimator: Estimator | None) -> Objective:
    """The same objective, differentiated in another way."""
    return dataclasses.replace(of, estimator=estimator)
