"""Gaussian processes: exact, and variational on sites of their priors, for any likelihood."""

from gp.kernels import (
    ActiveDimensions,
    ArcCosine,
    Constant,
    Deep,
    Kernel,
    Linear,
    Matern,
    Periodic,
    Pointwise,
    Product,
    RationalQuadratic,
    Scaled,
    SquaredExponential,
    Sum,
    deep,
    from_gpjax,
    from_tinygp,
    pointwise,
)
from gp.means import ConstantMean, FunctionMean, LinearMean, Zero, function_mean
from gp.prior import Conditional, Prior
from gp.sites import Sites

__all__ = [
    "ActiveDimensions",
    "ArcCosine",
    "Conditional",
    "Constant",
    "ConstantMean",
    "Deep",
    "FunctionMean",
    "Kernel",
    "Linear",
    "LinearMean",
    "Matern",
    "Periodic",
    "Pointwise",
    "Prior",
    "Product",
    "RationalQuadratic",
    "Scaled",
    "Sites",
    "SquaredExponential",
    "Sum",
    "Zero",
    "deep",
    "from_gpjax",
    "from_tinygp",
    "function_mean",
    "pointwise",
]
