"""The import paths of the original DCLS package, on the operators of dcls_ops.

- ``DCLS.construct.modules``: the layers of version 0.1.1 (``kernel_count``, ``dilated_kernel_size``, ``version``);
- ``DCLS.modules.Dcls`` and ``DCLS.construct.modules.Dcls``: those of 2021 (``kernel_size``, ``dilation``, ``gain``).

New code is better off with :mod:`dcls_ops.nn`; docs/migrating.md has the lines to change.
"""

from DCLS import _installation as _installation
from DCLS._exact import exact_gradients as exact_gradients
