"""Normalizing flows: families that bend a Gaussian, for `vi.fit` and for density estimation."""

from flows.autoregressive import Autoregressive
from flows.compose import Chain, FromDistrax, Inverse, Reverse, Stack, stack
from flows.coupling import Coupling
from flows.density import DensityFit, fit_density
from flows.factories import iaf, maf, neural_spline, planar, radial, realnvp, sylvester
from flows.flow import Flow
from flows.hamiltonian import HamiltonianMap
from flows.layer import Layer
from flows.linear import ActNorm, LULinear
from flows.mixflow import MixFlow
from flows.mixflow_run import mixflow
from flows.networks import MaskedNetwork, Network
from flows.residual import Planar, Radial, Sylvester
from flows.reverse_kl import ReverseKL
from flows.transformers import Affine, Spline

__all__ = [
    "ActNorm",
    "Affine",
    "Autoregressive",
    "Chain",
    "Coupling",
    "DensityFit",
    "Flow",
    "FromDistrax",
    "HamiltonianMap",
    "Inverse",
    "LULinear",
    "Layer",
    "MaskedNetwork",
    "MixFlow",
    "Network",
    "Planar",
    "Radial",
    "Reverse",
    "ReverseKL",
    "Spline",
    "Stack",
    "Sylvester",
    "fit_density",
    "iaf",
    "maf",
    "mixflow",
    "neural_spline",
    "planar",
    "radial",
    "realnvp",
    "stack",
    "sylvester",
]
