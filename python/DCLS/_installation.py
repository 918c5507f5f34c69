"""Warns where the original distribution is installed too: both own the folder DCLS."""

import warnings
from importlib.metadata import PackageNotFoundError, version

try:
    _original = version("DCLS")
except PackageNotFoundError:
    pass
else:
    warnings.warn(
        f"the original DCLS {_original} is installed too, and both own the folder DCLS: which one is imported, and "
        "whether uninstalling one breaks the other, is left to chance. Keep this one with:\n"
        "    pip uninstall --yes DCLS dcls_ops && pip install dcls_ops",
        stacklevel=2,
    )
