"""The layers of DCLS 0.1.1, with its arguments and parameters, and the other names that code imports from here."""

import logging
import math
import warnings
from typing import List, Optional, Tuple  # noqa: UP035

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import init
from torch.nn.common_types import _size_1_t as _size_1_t
from torch.nn.common_types import _size_2_t as _size_2_t
from torch.nn.common_types import _size_3_t as _size_3_t
from torch.nn.modules import Module
from torch.nn.modules.conv import convolution_notes
from torch.nn.modules.utils import _pair as _pair
from torch.nn.modules.utils import _reverse_repeat_tuple as _reverse_repeat_tuple
from torch.nn.modules.utils import _single as _single
from torch.nn.modules.utils import _triple as _triple
from torch.nn.parameter import Parameter

from DCLS._construct_kernel import (
    ConstructKernel1d,
    ConstructKernel2_1d,
    ConstructKernel2d,
    ConstructKernel3_1d,
    ConstructKernel3d,
)
from DCLS._constructed import Dcls1d, Dcls2_1d, Dcls2d, Dcls2dK1d, Dcls3_1d, Dcls3d
from DCLS._constructed import _DclsN_Md as _DclsN_Md
from DCLS._constructed import _DclsNd as _DclsNd

#: Whether depthwise convolutions are those of a package of that name. They never are: the library has its own.
install_implicit_gemm = False

__all__ = [
    "ConstructKernel1d",
    "ConstructKernel2_1d",
    "ConstructKernel2d",
    "ConstructKernel3_1d",
    "ConstructKernel3d",
    "Dcls1d",
    "Dcls2_1d",
    "Dcls2d",
    "Dcls2dK1d",
    "Dcls3_1d",
    "Dcls3d",
    # What `import *` brings from the original besides: its own imports.
    "F",
    "List",
    "Module",
    "Optional",
    "Parameter",
    "Tensor",
    "Tuple",
    "convolution_notes",
    "init",
    "install_implicit_gemm",
    "logging",
    "math",
    "torch",
    "warnings",
]

# Pickles name the module that a class says it is from: those of the original, and those for it, name this one. (So
# inspect.getsource does not find the classes; it finds their methods.)
for _name in __all__:
    if _name.startswith(("ConstructKernel", "Dcls")):
        globals()[_name].__module__ = "DCLS.construct.modules"
