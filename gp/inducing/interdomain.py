"""Inducing variables that are not values of the function at inputs, and their covariances."""

import abc
from typing import Any

from jaxtyping import Array, Float


class Features(abc.ABC):
    """M inducing variables, linear functionals of the function; a `vi.module.module`.

    Given as ``inducing`` to ``method="inducing"`` they take the place of inducing inputs. Their
    arrays are trained with minibatches that ``move``. Covariances must be exact, also where sums
    are truncated: what the variables explain is otherwise more than there is.
    """

    @abc.abstractmethod
    def __len__(self) -> int:
        """M."""
        ...

    @abc.abstractmethod
    def covariance(self, kernel: Any) -> Float[Array, "M M"]:
        """Covariances of the variables."""
        ...

    @abc.abstractmethod
    def cross(self, kernel: Any, x: Float[Array, "B D"]) -> Float[Array, "M B"]:
        """Covariances of the variables with the function at inputs."""
        ...

    def cautions(self, kernel: Any) -> list[str]:
        """What speaks against them: sentences, none where nothing does."""
        del kernel
        return []


def covariance_of(kernel: Any, z: Any) -> Float[Array, "M M"]:
    """Covariances of inducing variables, given by inputs or as features."""
    return z.covariance(kernel) if isinstance(z, Features) else kernel(z, z)


def cross_of(kernel: Any, z: Any, x: Float[Array, "B D"]) -> Float[Array, "M B"]:
    """Covariances of the inducing variables with the function at x, shape ``(M, B)``.

    Args:
      kernel: the kernel.
      z: inducing inputs, ``(M, D)``, or `gp.inducing.Features`.
      x: inputs.
    """
    return z.cross(kernel, x) if isinstance(z, Features) else kernel(z, x)
