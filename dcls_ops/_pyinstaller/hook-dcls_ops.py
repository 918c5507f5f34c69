"""PyInstaller runs this where a program imports dcls_ops, to learn what to collect besides modules."""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path


def _libraries() -> list[tuple[str, str]]:
    # An editable install has them in another folder than the modules.
    spec = find_spec("dcls_ops")
    folders = spec.submodule_search_locations if spec is not None else None
    return [(str(path), "dcls_ops") for folder in folders or () for path in sorted(Path(folder).glob("libdcls*.so"))]


def _metadata() -> list[tuple[str, str]]:
    try:
        files = distribution("dcls_ops").files or []
    except PackageNotFoundError:
        return []
    folders = [Path(str(file.locate())).parent for file in files if file.name == "METADATA"]
    return [(str(folder), folder.name) for folder in folders]


#: (what, into which folder) each.
binaries = _libraries()
datas = _metadata()
