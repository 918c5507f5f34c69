"""Dilated Convolution with Learnable Spacings as PyTorch operators.

Importing the package defines ``torch.ops.dcls.*``. Layers are in :mod:`dcls_ops.nn`, functions in
:mod:`dcls_ops.functional`.
"""

from dcls_ops import convert as convert
from dcls_ops import deploy as deploy
from dcls_ops import functional as functional
from dcls_ops import nn as nn
from dcls_ops import ops as ops
from dcls_ops import reference as reference
from dcls_ops._version import __version__ as __version__
