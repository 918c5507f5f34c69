"""Warns where the original distribution is installed too: both own the folder DCLS."""

import warnings
from importlib.metadata import PackageNotFoundError, distribution

try:
    _installed = distribution("DCLS")
except PackageNotFoundError:
    pass
else:
    # Ours of that name (python/pyproject.toml) says what it is by its version, 0.1.1+dcls.ops.
    if "+dcls.ops" not in _installed.version:
        warnings.warn(
            f"the original DCLS {_installed.version} is installed too, and both own the folder DCLS: files of either "
            "may be missing or be the other's. To keep this one, run\n    pip uninstall --yes DCLS dcls_ops\nand "
            "install dcls_ops again.",
            stacklevel=2,
        )
