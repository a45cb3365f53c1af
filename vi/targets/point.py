"""A target for point estimates: the density of the constrained values."""

from jaxtyping import Array, Float

from vi.module import module
from vi.targets.target import Target
from vi.targets.wrapped import Wrapped


@module
class PointTarget(Wrapped):
    """The log density without the log-Jacobian of the constraining maps.

    Its maximum is the maximum a posteriori of the model's own sites, as of NumPyro's AutoDelta;
    that of the unconstrained density depends on the maps.
    """

    base: Target

    def log_density(self, z: Float[Array, " D"], key: Array | None = None) -> Float[Array, ""]:
        """Log density at ``z`` with respect to the constrained values, nats."""
        volume = self.base.structure.log_jacobian(self.base.data, z)
        return self.base.log_density(z, key) - volume
