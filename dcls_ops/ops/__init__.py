"""The Python side of the operators, one file an operator: fake kernel, reference, autograd, autocast, vmap.

Schemas and compiled kernels are in ``csrc``. Importing this package makes ``torch.ops.dcls.*`` complete.
"""

from dcls_ops import _library as _library  # defines the operators, so it comes first
from dcls_ops.ops import _flops as _flops
from dcls_ops.ops import construct_kernel as construct_kernel
from dcls_ops.ops import conv as conv
from dcls_ops.ops import depthwise_conv as depthwise_conv
