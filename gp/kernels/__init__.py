"""Kernels: nouns evaluated on blocks, their arithmetic, and doors for those of other libraries."""

from gp.kernels.coregional import Coregional, coregional
from gp.kernels.dot_product import ArcCosine, Constant, Linear
from gp.kernels.inputs import ActiveDimensions, Deep, deep
from gp.kernels.kernel import Kernel, Product, Scaled, Sum
from gp.kernels.pointwise import Pointwise, from_gpjax, from_tinygp, pointwise
from gp.kernels.stationary import (
    Matern,
    Periodic,
    RationalQuadratic,
    SquaredExponential,
    Stationary,
)
from gp.kernels.zonal import Zonal, ZonalMatern

__all__ = [
    "ActiveDimensions",
    "ArcCosine",
    "Constant",
    "Coregional",
    "Deep",
    "Kernel",
    "Linear",
    "Matern",
    "Periodic",
    "Pointwise",
    "Product",
    "RationalQuadratic",
    "Scaled",
    "SquaredExponential",
    "Stationary",
    "Sum",
    "Zonal",
    "ZonalMatern",
    "coregional",
    "deep",
    "from_gpjax",
    "from_tinygp",
    "pointwise",
]
