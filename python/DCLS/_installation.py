"""Warns where the original distribution is installed too: both own the folder DCLS."""

import warnings
from importlib.metadata import PackageNotFoundError, version

try:
    _original = version("DCLS")
except PackageNotFoundError:
    pass
else:
    warnings.warn(
        f"the original DCLS {_original} is installed too, and both own the folder DCLS: files of either may be missing "
        "or be the other's. To keep this one, run\n    pip uninstall --yes DCLS dcls_ops\nand install dcls_ops again.",
        stacklevel=2,
    )
