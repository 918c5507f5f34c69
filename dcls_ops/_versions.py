"""The interpolations and the methods, by name, and how wide elements are."""

import torch
from torch import Tensor

VERSIONS = ("v0", "v1", "max", "gauss")
METHODS = ("auto", "construct", "direct", "im2col")

#: The narrowest width of a layer's elements, in taps.
SMALLEST_SIGMA = {"max": 1.0, "gauss": 0.27}

#: What SIG starts as. A Gaussian of 0.23 + 0.27 = 0.5 taps is about as wide as the triangles of other versions.
INITIAL_SIG = {"max": 0.0, "gauss": 0.23}


def has_sigma(version: str) -> bool:
    """Whether an interpolation takes a width."""
    return version in ("max", "gauss")


def effective_sigma(SIG: Tensor, smallest: float) -> Tensor:
    """\\|SIG\\| + smallest, with the derivative 1 at 0: there SIG starts in "max", and would never learn."""
    return torch.where(SIG >= 0, SIG, -SIG) + smallest
