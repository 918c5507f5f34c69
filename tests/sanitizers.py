"""Runs Python with libraries that were compiled with -fsanitize=address,undefined (`make test` builds them).

Also a plugin for a pytest that tests the CPU library so compiled: pytest -p sanitizers.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

BUILDS = Path(__file__).parents[1] / "build"


def run_sanitized(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments and environment variables; a report of the sanitizers ends it.

    pytest needs --capture=sys, or the report ends with it.
    """
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaks, and says so at length
        "UBSAN_OPTIONS": "print_stacktrace=1",
        **variables,
    }
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


# Before conftest.py, which imports dcls_ops.
@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    """Imports dcls_ops with the folder of the sanitized library first among those that it looks for libraries in."""
    spec = importlib.util.find_spec("dcls_ops")
    spec.submodule_search_locations.insert(0, str(BUILDS / "cpu_sanitized"))
    package = importlib.util.module_from_spec(spec)
    sys.modules["dcls_ops"] = package
    spec.loader.exec_module(package)
    assert package._library.LOADED["dcls"] == BUILDS / "cpu_sanitized" / "libdcls.so"
