"""What `import structdiff` loads and costs, and which folders are packaged."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LATE = [
    "e3nn",
    "geomstats",
    "matplotlib",
    "pandas",
    "pydantic",
    "rdkit",
    "scipy",
    "torch_geometric",
    "tyro",
]

PROBE = f"""
import json, sys, time
start = time.process_time()
import torch
middle = time.process_time()
import structdiff
end = time.process_time()
loaded = [name for name in {LATE!r} if name in sys.modules]
print(json.dumps({{"torch": middle - start, "structdiff": end - middle, "loaded": loaded}}))
"""


@pytest.fixture(scope="module")
def fresh_imports():
    """Three fresh processes: the first may still have bytecode to write."""
    command = [sys.executable, "-c", PROBE]
    return [json.loads(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(3)]


def test_import_loads_no_library_of_a_domain(fresh_imports):
    assert fresh_imports[0]["loaded"] == []


def test_import_costs_little_more_than_torch(fresh_imports):
    ratios = [probe["structdiff"] / probe["torch"] for probe in fresh_imports]
    assert min(ratios) <= 0.2, f"import structdiff / import torch: {ratios}"


def packages_on_disk(folder, name):
    """Every folder with a Python file is a package, at any depth."""
    folders = {path.parent for path in folder.rglob("*.py")}
    return {".".join([name, *path.relative_to(folder).parts]) for path in folders}


def test_pyproject_lists_the_packages_on_disk():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = settings["packages"]
    roots = settings["package-dir"]
    found = set().union(*(packages_on_disk(ROOT / path, name) for name, path in roots.items()))
    assert len(listed) == len(set(listed))
    assert found - set(listed) == set(), "add these to [tool.setuptools] packages"
    assert set(listed) - found == set(), "remove these from [tool.setuptools] packages"


@pytest.mark.parametrize("folder", ["structdiff", "domains"])
def test_every_package_has_an_init(folder):
    folders = {path.parent for path in (ROOT / folder).rglob("*.py")}
    assert [str(path) for path in sorted(folders) if not (path / "__init__.py").exists()] == []


def test_no_name_is_that_of_a_module():
    """A submodule, once imported, would stand in the place of a name that is loaded later."""
    probe = """
import importlib, pkgutil, types, structdiff
for info in pkgutil.iter_modules(structdiff.__path__, "structdiff."):
    package = importlib.import_module(info.name)
    if not info.ispkg or info.name in ("structdiff.domains", "structdiff.cli"):
        continue
    for below in pkgutil.iter_modules(package.__path__, info.name + "."):
        importlib.import_module(below.name)
    for name in getattr(package, "__all__", []):
        if isinstance(getattr(package, name), types.ModuleType):
            print(info.name, name)
"""
    command = [sys.executable, "-W", "ignore", "-c", probe]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == ""
