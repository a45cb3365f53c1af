"""The options of `vi.fit`, checked before anything is traced."""

import dataclasses
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
import optax
from jaxtyping import Array

from vi.blocks import Groups
from vi.errors import TargetError
from vi.families.scale import Positive
from vi.gaussian.estimators import BonnetPrice, SphericalRadial, Stein
from vi.program import Objective
from vi.program.estimators import SiteEstimator
from vi.targets import Layout
from vi.upstairs import FlowName

FamilyName = Literal["full_rank", "mean_field", "block", "low_rank", "delta", FlowName, "auto"]
Estimator = SiteEstimator | BonnetPrice | SphericalRadial | Stein
OnFailure = Literal["warn", "raise", "return"]


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """What a user may choose; None means that `vi.fit` chooses."""

    family: FamilyName | Callable | Any | None = None
    rank: int | None = None
    blocks: Sequence[Sequence[str]] | None = None
    positive: Positive | None = None
    objective: Objective | None = None
    estimator: Estimator | Any | None = None
    optimizer: optax.GradientTransformation | None = None
    learning_rate: float | None = None
    num_steps: int | None = None
    init: dict[str, Array] | None = None
    num_draws: int | None = None
    budget: int | None = None
    on_failure: OnFailure = "warn"

    def check(self) -> None:
        """Raise a `ValueError` for a value or a combination that means nothing."""
        names = get_args(FamilyName)
        if isinstance(self.family, str) and self.family not in names:
            raise ValueError(f"vi.fit: expected family in {names}; got {self.family!r}.")
        self._check_kinds()
        if self.on_failure not in get_args(OnFailure):
            raise ValueError(
                f"vi.fit: expected on_failure in {get_args(OnFailure)}; got {self.on_failure!r}."
            )
        for name in ("num_steps", "num_draws", "rank", "budget"):
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise ValueError(
                    f"vi.fit: expected {name} to be a whole number >= 1; got {value!r}."
                )
        rate = self.learning_rate
        if rate is not None and not (_is_number(rate) and 0 < rate < math.inf):
            raise ValueError(f"vi.fit: expected a finite learning_rate > 0; got {rate!r}.")
        if self.rank is not None and self.family != "low_rank":
            raise ValueError("vi.fit: expected rank only with family='low_rank'.")
        if self.blocks is not None and self.family != "block":
            raise ValueError("vi.fit: expected blocks only with family='block'.")
        if self.budget is not None and self.family != "auto":
            raise ValueError("vi.fit: expected budget only with family='auto'.")
        if self.positive is not None and self.family in get_args(FlowName):
            raise ValueError(
                f"vi.fit: expected no positive with family={self.family!r}; it is a choice of "
                "Gaussians."
            )
        if self.learning_rate is not None and self.optimizer is not None:
            raise ValueError(
                "vi.fit: expected learning_rate or optimizer, not both. Give the optimizer its "
                "own rate, as in optax.adam(1e-2)."
            )
        if self.family == "auto" and self.stochastic:
            raise ValueError(
                "vi.fit: expected no objective, estimator, optimizer, learning_rate or num_steps "
                "with family='auto', which chooses them. Name a family to choose them yourself."
            )

    def _check_kinds(self) -> None:
        """Raise a `TypeError` for what belongs elsewhere: guides, losses of NumPyro, functions."""
        kinds = (type(None), str, Callable)
        ours = hasattr(self.family, "log_prob") or hasattr(self.family, "run_after")
        if not (isinstance(self.family, kinds) or ours):
            raise TypeError(
                "vi.fit: expected family to be a name, a family such as vi.mean_field(D), or a "
                f"function of D that makes one; got {self.family!r}."
            )
        if self.positive is not None and self.positive not in get_args(Positive):
            raise ValueError(
                f"vi.fit: expected positive in {get_args(Positive)}; got {self.positive!r}."
            )
        if not isinstance(self.init, (dict, type(None))):
            raise TypeError(
                f"vi.fit: expected init to be a dictionary of sites' values; got {self.init!r}."
            )
        if any(kind.__name__ == "AutoGuide" for kind in inspect.getmro(type(self.family))):
            raise TypeError(
                f"vi.fit: expected a family; got the guide {type(self.family).__name__}. Guides go "
                "to vi.SVI(model, guide, optimizer, objective); vi.fit takes family='mean_field', "
                "'full_rank' or 'low_rank' where AutoNormal, AutoMultivariateNormal or "
                "AutoLowRankMultivariateNormal were used."
            )
        if self.objective is not None and not isinstance(self.objective, Objective):
            raise TypeError(
                "vi.fit: expected an objective such as vi.elbo(num_particles=10); got "
                f"{self.objective!r}. A function that @vi.objective made is called with its "
                "options, as in iwelbo(num_particles=8); losses of NumPyro are for "
                "numpyro.infer.SVI."
            )
        if not isinstance(self.optimizer, (optax.GradientTransformation, type(None))):
            raise TypeError(
                "vi.fit: expected an optax transformation as optimizer, such as optax.adam(1e-2); "
                f"got {self.optimizer!r}. Those of numpyro.optim are for vi.SVI."
            )

    @property
    def stochastic(self) -> bool:
        """Whether an option asks for stochastic optimisation rather than the Gaussian solver."""
        chosen = (
            self.objective,
            self.estimator,
            self.optimizer,
            self.learning_rate,
            self.num_steps,
        )
        return any(x is not None for x in chosen) or self.positive is not None

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        fields = dataclasses.fields(self)
        return {
            f.name: value
            for f in fields
            if (value := getattr(self, f.name)) is not None and value is not f.default
        }


def _is_number(value: Any) -> bool:
    scalar = isinstance(value, np.ndarray | jax.Array) and value.shape == ()
    number = isinstance(value, numbers.Real | np.number) or (scalar and value.dtype.kind in "iuf")
    return number and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 1 and value % 1 == 0


def groups_of(layout: Layout, blocks: Sequence[Sequence[str]] | None) -> Groups:
    """Groups of coordinates from groups of site names; by default each site is its own group.

    Args:
      layout: of the target.
      blocks: groups of names; sites that are not named form groups of their own.

    Returns:
      Groups of coordinates that partition the vector.

    Raises:
      TargetError: if a name is unknown or named twice.
    """
    named = [name for group in blocks or () for name in group]
    unknown = sorted(set(named) - set(layout.names))
    if unknown or len(set(named)) < len(named):
        wrong = f"unknown {unknown}" if unknown else "a site named twice"
        raise TargetError(
            f"vi.fit: expected blocks of sites out of {list(layout.names)}; got {wrong}."
        )
    rest = [[name] for name in layout.names if name not in named]
    where = layout.slices
    return tuple(
        tuple(i for name in group for i in range(where[name].start, where[name].stop))
        for group in [*(blocks or ()), *rest]
        if group
    )
