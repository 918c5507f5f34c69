import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from comparing import num_threads
from hypothesis import settings

import dcls_ops  # noqa: F401, defines torch.ops.dcls

# Fixed examples: a failure is the same for everybody. Times vary on shared machines, so there is no deadline.
settings.register_profile("dcls", derandomize=True, deadline=None, max_examples=60)
settings.register_profile("few", settings.get_profile("dcls"), max_examples=12)  # where the sanitizers watch
settings.load_profile("dcls")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def original() -> ModuleType:
    """DCLS.construct.modules of the original package, loaded without putting its folder on Python's path."""
    path = Path(sys.prefix, "oracle", "DCLS", "construct", "modules.py")
    if not path.exists():
        pytest.fail("the original package is missing: `make test` installs it to .venv/oracle")
    spec = importlib.util.spec_from_file_location("original_dcls", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    logging.getLogger().setLevel(logging.ERROR)  # it logs three warnings a layer
    return module


@pytest.fixture(params=[1, 2, 5], ids=lambda n: f"{n}_threads")
def threads(request):
    with num_threads(request.param):
        yield request.param
