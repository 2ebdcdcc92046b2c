"""The package works however it is installed, and wherever Python is started.

Each way has a venv of its own, which sees the libraries of the running environment through a
`.pth` line and so is made in a second. A `.pth` of a folder that is itself added by a `.pth` is
not read, so an editable install of the running environment stays out of sight.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.package

ROOT = Path(__file__).parents[2]
DATA = {".json", ".npz", ".safetensors"}

WHERE = """
import structdiff, structdiff.domains.molecules
print(structdiff.__file__)
print(structdiff.domains.__file__)
"""

PROBE_TEST = """
from pathlib import Path

import structdiff


def test_import():
    import structdiff.domains.molecules

    assert Path(structdiff.__file__).parents[1] == Path(__file__).parent
"""


def run(*command, cwd):
    """Run a command, free of the paths and settings of this test run; return what it prints."""
    hidden = ("PYTHON", "PYTEST", "VIRTUAL_ENV")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    result = subprocess.run(command, cwd=cwd, env=environ, text=True, capture_output=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def pip(*arguments, cwd):
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)


@dataclass(frozen=True)
class Venv:
    """An environment with the libraries of the running one and a structdiff of its own."""

    folder: Path

    @classmethod
    def make(cls, folder):
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=ROOT)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        libraries = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        site = folder / "lib" / version / "site-packages"
        (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
        return cls(folder)

    @property
    def python(self):
        return str(self.folder / "bin" / "python")

    def install(self, *what, cwd):
        quick = ["--no-deps", "--no-build-isolation", "--ignore-installed"]
        pip("--python", self.python, "install", *quick, *what, cwd=cwd)

    def where(self, cwd):
        """The folders that structdiff and structdiff.domains are imported from."""
        lines = run(self.python, "-c", WHERE, cwd=cwd).splitlines()
        return [Path(line).parent for line in lines]


@pytest.fixture
def clone(tmp_path):
    """A copy of what is installed, so that no build folder is left in the real clone."""
    clone = tmp_path / "clone"
    bytecode = shutil.ignore_patterns("__pycache__")
    for folder in ("structdiff", "domains"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=bytecode)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, clone)
    return clone


def test_editable(clone, tmp_path):
    venv = Venv.make(tmp_path / "venv")
    venv.install("-e", ".", cwd=clone)
    expected = [clone / "structdiff", clone / "domains"]
    assert venv.where(cwd=clone) == expected
    assert venv.where(cwd=tmp_path) == expected
    assert "usage" in run(str(venv.folder / "bin" / "structdiff"), "--help", cwd=tmp_path).lower()


def test_plain_install_used_inside_the_clone(clone, tmp_path):
    """Here ./structdiff, which has no domains, hides the installed one."""
    venv = Venv.make(tmp_path / "venv")
    venv.install(".", cwd=clone)
    structdiff, domains = venv.where(cwd=clone)
    assert structdiff == clone / "structdiff"
    assert domains.is_relative_to(venv.folder)
    (clone / "test_probe.py").write_text(PROBE_TEST)
    probe = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_probe.py"]
    assert "1 passed" in run(venv.python, *probe, cwd=clone)


@pytest.fixture
def wheel(clone, tmp_path):
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ".", cwd=clone)
    return next(tmp_path.glob("structdiff-*.whl"))


def test_wheel_used_outside_the_clone(wheel, tmp_path):
    venv = Venv.make(tmp_path / "venv")
    venv.install(str(wheel), cwd=tmp_path)
    structdiff, domains = venv.where(cwd=tmp_path)
    assert structdiff.is_relative_to(venv.folder)
    assert domains == structdiff / "domains"
    assert "usage" in run(str(venv.folder / "bin" / "structdiff"), "--help", cwd=tmp_path).lower()


def test_wheel_holds_all_code_and_data(wheel):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    expected = {"structdiff/py.typed"}
    for name, folder in settings["package-dir"].items():
        for path in (ROOT / folder).rglob("*"):
            is_data = folder == "domains" and (path.suffix in DATA or path.name == "README.md")
            if path.suffix == ".py" or is_data:
                inside = path.relative_to(ROOT / folder).as_posix()
                expected.add(f"{name.replace('.', '/')}/{inside}")
    names = set(zipfile.ZipFile(wheel).namelist())
    held = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert held == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)
