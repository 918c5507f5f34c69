"""The package as it is installed: libraries, wheel tag, command line."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution, entry_points, version
from pathlib import Path

import pytest
import torch

import dcls_ops
from dcls_ops import _library, _versions


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_one_wheel_serves_every_python():
    assert "Tag: py3-none-" in distribution("dcls_ops").read_text("WHEEL")


# What `make cuda` leaves: torch loads no CUDA library where it is a CPU build.
CUDA_LIBRARY = Path(__file__).parents[1] / "build" / "cuda" / "libdcls_cuda.so"
LIBRARIES = [*_library.LOADED.values(), *([CUDA_LIBRARY] if CUDA_LIBRARY.exists() else [])]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_libraries_use_the_stable_abi_only(library):
    undefined = run("nm", "-D", "--undefined-only", str(library)).stdout
    names = [line.split()[-1] for line in undefined.splitlines()]
    assert any(name.startswith("aoti_torch_") for name in names)
    # A mangled name of namespace c10, at, caffe2 or torch, or anything of Python.
    unstable = [
        n for n in names if any(part in n for part in ("3c10", "2at", "6caffe2", "5torch")) or n.startswith("Py")
    ]
    assert unstable == []


@pytest.mark.parametrize("arguments", [(), ("info",)], ids=str)
def test_info(arguments):
    lines = run(sys.executable, "-m", "dcls_ops", *arguments).stdout.splitlines()
    assert lines[0].startswith(f"dcls_ops {dcls_ops.__version__}, torch {torch.__version__}, Python ")
    assert any(line.startswith("libdcls ") and "compiled by" in line for line in lines)
    assert "conv2d                     compiled  ATen" in lines


def test_importing_loads_nothing_but_torch():
    heavy = "{'matplotlib', 'sklearn', 'pytest'}"
    code = f"import sys, dcls_ops, dcls_ops.__main__; print({heavy} & set(sys.modules))"
    assert run(sys.executable, "-c", code).stdout == "set()\n"


def test_a_missing_library_is_explained():
    code = (
        "import importlib.machinery, sys, types;"
        "package = types.ModuleType('dcls_ops'); package.__path__ = ['/nowhere'];"
        "sys.modules['dcls_ops'] = package;"
        f"path = {str(Path(_library.__file__))!r};"
        "loader = importlib.machinery.SourceFileLoader('dcls_ops._library', path); loader.load_module()"
    )
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert "ImportError: dcls_ops: the operator library libdcls.so is missing" in process.stderr


def test_names_of_interpolations_and_methods():
    """Tests take them from the package: none may be missing there."""
    assert _versions.VERSIONS == ("v0", "v1", "max", "gauss")
    assert _versions.METHODS == ("auto", "construct", "direct", "im2col")
    assert [version for version in _versions.VERSIONS if _versions.has_sigma(version)] == ["max", "gauss"]


def test_runs_without_metadata():
    """Runs as in a frozen program."""
    code = (
        "import importlib.metadata as metadata\n"
        "def missing(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.Distribution.from_name = missing\n"
        "import dcls_ops, DCLS; print(dcls_ops.__version__)"
    )
    assert run(sys.executable, "-c", code).stdout.strip() == version("dcls_ops")


def test_pyinstaller_finds_what_to_collect():
    (entry_point,) = [point for point in entry_points(group="pyinstaller40") if point.value.startswith("dcls_ops.")]
    (folder,) = entry_point.load()()
    # In a process that has not imported the package, as PyInstaller's.
    code = "import runpy, sys; hook = runpy.run_path(sys.argv[1]); print(hook['binaries']); print(hook['datas'])"
    binaries, datas = run(sys.executable, "-c", code, str(Path(folder, "hook-dcls_ops.py"))).stdout.splitlines()
    assert set(ast.literal_eval(binaries)) >= {(str(path), "dcls_ops") for path in _library.LOADED.values()}
    ((metadata, name),) = ast.literal_eval(datas)
    assert Path(metadata, "METADATA").exists()
    assert name == f"dcls_ops-{dcls_ops.__version__}.dist-info"


SECOND_COPIES = {
    "after the package": "import dcls_ops; load(a)",
    "twice the same": "load(a); load(a)",
    "one after the other": "load(a); load(b)",
    "before the package": "load(a); import dcls_ops",
}


@pytest.mark.parametrize(
    ("order", "inert", "error"),
    [
        ("after the package", "a", None),
        ("twice the same", None, None),
        ("one after the other", "b", None),
        ("before the package", "libdcls", "ImportError: dcls_ops: another library has defined torch.ops.dcls, so"),
    ],
)
def test_a_second_copy_of_the_library_is_explained(tmp_path, order, inert, error):
    copies = {name: shutil.copy(_library.LOADED["dcls"], tmp_path / f"{name}.so") for name in "ab"}
    code = (
        f"import torch; load = torch.ops.load_library; a, b = {str(copies['a'])!r}, {str(copies['b'])!r}\n"
        f"{SECOND_COPIES[order]}\n"
        "one = torch.ones(1, 1, 1); print(torch.ops.dcls.construct_kernel(one, one[None] * 0, [1], version='v0'))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    notices = re.findall(
        r"dcls_ops: .*/(\w+)\.so registers nothing, because another library has defined", process.stderr
    )
    assert notices == ([] if inert is None else [inert])
    if error is None:
        assert process.stdout == "tensor([[[1.]]])\n"  # by the copy that came first
    else:
        assert error in process.stderr
        assert f"torch.ops.load_library has loaded: {copies['a']}" in process.stderr


@pytest.mark.parametrize("package", ["dcls_ops", "DCLS"])
def test_typed(package):
    assert (Path(importlib.import_module(package).__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("path", ["DCLS", "DCLS.construct.modules", "DCLS.construct.modules.Dcls", "DCLS.modules.Dcls"])
@pytest.mark.parametrize("is_installed", [False, True])
def test_warns_where_the_original_is_installed_too(tmp_path, path, is_installed):
    if is_installed:
        metadata = tmp_path / "DCLS-0.1.1.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text("Metadata-Version: 2.1\nName: DCLS\nVersion: 0.1.1\n")
    command = [sys.executable, "-c", f"import {path}"]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert process.stderr.count("the original DCLS 0.1.1 is installed too") == is_installed
    assert process.stderr.count("pip uninstall --yes DCLS dcls_ops") == is_installed


README = Path(__file__).parents[1] / "README.md"


def test_readme_is_finished():
    assert not re.search(r"@[A-Z]+@", README.read_text())


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
def test_readme_snippets_run(snippet):
    exec(snippet, {})
