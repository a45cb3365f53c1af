"""Normalizing flows: families that bend a Gaussian, for `vi.fit` and for density estimation."""

from flows.autoregressive import Autoregressive
from flows.block_autoregressive import BlockNeural
from flows.bumps import Planar, Radial, Sylvester
from flows.compose import Chain, FromDistrax, Inverse, Reverse, Stack, stack
from flows.conditional import Conditional
from flows.contractive import Residual
from flows.convex import ConvexGradient
from flows.coupling import Coupling
from flows.density import DensityFit, fit_density
from flows.direct_factories import (
    block_neural,
    planar,
    polynomial,
    radial,
    residual,
    sylvester,
)
from flows.factories import iaf, maf, neural_spline, realnvp
from flows.flow import Flow
from flows.functionals import (
    GeneralizedEntropy,
    JensenShannon,
    RelativeEntropy,
    SampleRelativeEntropy,
    generalized_entropy,
    relative_entropy,
)
from flows.hamiltonian import HamiltonianMap
from flows.layer import Layer
from flows.linear import ActNorm, GaussianMap, LULinear
from flows.mixflow import MixFlow
from flows.mixflow_run import mixflow
from flows.networks import MaskedNetwork, Network
from flows.reverse_kl import ReverseKL
from flows.transformers import Affine, Spline
from flows.transport import MonotonePolynomial, PolynomialConditioner
from flows.wasserstein import WassersteinFlow, wasserstein_flow

__all__ = [
    "ActNorm",
    "Affine",
    "Autoregressive",
    "BlockNeural",
    "Chain",
    "Conditional",
    "ConvexGradient",
    "Coupling",
    "DensityFit",
    "Flow",
    "FromDistrax",
    "GaussianMap",
    "GeneralizedEntropy",
    "HamiltonianMap",
    "Inverse",
    "JensenShannon",
    "LULinear",
    "Layer",
    "MaskedNetwork",
    "MixFlow",
    "MonotonePolynomial",
    "Network",
    "Planar",
    "PolynomialConditioner",
    "Radial",
    "RelativeEntropy",
    "Residual",
    "Reverse",
    "ReverseKL",
    "SampleRelativeEntropy",
    "Spline",
    "Stack",
    "Sylvester",
    "WassersteinFlow",
    "block_neural",
    "fit_density",
    "generalized_entropy",
    "iaf",
    "maf",
    "mixflow",
    "neural_spline",
    "planar",
    "polynomial",
    "radial",
    "realnvp",
    "relative_entropy",
    "residual",
    "stack",
    "sylvester",
    "wasserstein_flow",
]
