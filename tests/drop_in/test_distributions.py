"""The distribution DCLS beside dcls_ops, in environments of its own; nothing of it needs torch."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dcls_ops

ROOT = Path(__file__).parents[2]
ORACLE = Path(sys.prefix, "oracle")


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def pip(*arguments):
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The original's wheel and ours, without C++: {"original", "dcls", "dcls_ops"}."""
    folder = tmp_path_factory.mktemp("wheels")
    original = tmp_path_factory.mktemp("original") / "dcls-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(original, "w") as archive:
        for file in ORACLE.rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts and file.name not in ("INSTALLER", "REQUESTED"):
                archive.write(file, file.relative_to(ORACLE))
    wheel = ("wheel", "--quiet", "--no-build-isolation", "--no-index", "--no-deps", "--wheel-dir", str(folder))
    pip(*wheel, str(ROOT / "python"))
    pip(*wheel, str(ROOT), "-Cwheel.cmake=false")
    ours = {file.name.split("-")[0]: file for file in folder.iterdir()}
    return {"original": original, **ours}


class Environment:
    def __init__(self, path):
        run(sys.executable, "-m", "venv", "--without-pip", str(path))
        self.python = str(path / "bin" / "python")
        self.site = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def pip(self, *arguments):
        return pip("--python", self.python, *arguments)

    def install(self, *what):
        return self.pip("install", "--no-index", "--no-deps", "--no-compile", *map(str, what))

    def version(self):
        return run(self.python, "-c", "from importlib.metadata import version; print(version('DCLS'))").strip()

    def files(self):
        return {
            str(file.relative_to(self.site))
            for file in (self.site / "DCLS").rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }


@pytest.fixture
def environment(tmp_path):
    return Environment(tmp_path / "environment")


OURS = {str(file.relative_to(ROOT / "python")) for file in (ROOT / "python" / "DCLS").rglob("*") if file.is_file()}
OURS = {name for name in OURS if "__pycache__" not in name}


def test_the_original_s_name_is_there(environment, wheels):
    environment.install(wheels["dcls_ops"], wheels["dcls"])
    assert environment.version().startswith("0.1.1+dcls.ops.")
    # There is no index to install anything from.
    assert "Requirement already satisfied: dcls" in environment.install("dcls", "DCLS>=0.1", "DCLS==0.1.1")


@pytest.mark.parametrize(
    "steps", [[("dcls_ops", "dcls")], [("dcls_ops",), ("dcls",)], [("dcls",), ("dcls_ops",)]], ids=str
)
def test_it_takes_the_original_s_place(environment, wheels, steps):
    environment.install(wheels["original"])
    for step in steps:
        environment.install(*(wheels[name] for name in step))
    assert environment.version().startswith("0.1.1+dcls.ops.")
    assert environment.files() == OURS
    assert len(list(environment.site.glob("[Dd][Cc][Ll][Ss]-*.dist-info"))) == 1


def test_the_original_takes_its_place_back(environment, wheels):
    environment.install(wheels["dcls_ops"], wheels["dcls"])
    environment.install("--force-reinstall", wheels["original"])
    assert environment.version() == "0.1.1"
    assert environment.files() == {"DCLS/__init__.py", "DCLS/construct/__init__.py", "DCLS/construct/modules.py"}


def test_it_is_of_the_version_that_it_depends_on(wheels):
    version = dcls_ops.__version__
    assert wheels["dcls"].name == f"dcls-0.1.1+dcls.ops.{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheels["dcls"]) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
    assert f"Requires-Dist: dcls_ops=={version}\n" in metadata


def test_it_is_not_taken_for_the_original(tmp_path, wheels):
    with zipfile.ZipFile(wheels["dcls"]) as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if ".dist-info/" in name])
    code = "import DCLS; from importlib.metadata import version; print(version('DCLS'))"
    assert run(sys.executable, "-W", "error", "-c", code, env={**os.environ, "PYTHONPATH": str(tmp_path)}).startswith(
        "0.1.1+dcls.ops."
    )
