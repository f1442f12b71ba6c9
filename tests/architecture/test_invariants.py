"""What ARCHITECTURE.md calls invariants, as far as it can be read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for package in ("redeem", "service", "worker", "migrations") for path in (ROOT / package).rglob("*.py")
)
EVERYTHING = [*SOURCES, *sorted((ROOT / "examples").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
HEAVY = {"torch", "torchvision", "timm", "numpy"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(*modules: str) -> set[str]:
    return {name(path) for path in SOURCES for module in imports(path) if module.partition(".")[0] in modules}


def test_there_is_something_to_look_at() -> None:
    assert {"redeem/contract.py", "service/settings.py", "worker/algorithms/data.py"} <= {
        name(path) for path in SOURCES
    }


def test_the_algorithms_are_a_pure_pytorch_library() -> None:
    allowed = {*HEAVY, *sys.stdlib_module_names}
    foreign = {
        (name(path), module)
        for path in (ROOT / "worker/algorithms").rglob("*.py")
        for module in imports(path)
        if module.partition(".")[0] not in allowed and not module.startswith("worker.algorithms.")
    }
    assert foreign == set()


def test_only_two_files_know_celery() -> None:
    assert importers("celery", "kombu") <= {"service/queue.py", "worker/app.py"}


def test_only_settings_read_the_environment() -> None:
    readers = {
        name(path)
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    }
    assert readers <= {"service/settings.py", "redeem/settings.py"}
    assert {name(path) for path in SOURCES if "os.environ" in imports(path) or "os.getenv" in imports(path)} == set()


def test_no_file_unpickles() -> None:
    forbidden = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    assert importers(*forbidden) == set()


def test_torch_load_reads_weights_only() -> None:
    careless = [
        f"{name(path)}:{node.lineno}"
        for path in EVERYTHING
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"torch.load", "torch.jit.load", "torch.export.load", "torch.hub.load"}
        and not (
            ast.unparse(node.func) == "torch.load"
            and any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
        )
    ]
    assert careless == []


def test_numpy_never_allows_pickles() -> None:
    careless = [
        f"{name(path)}:{node.value.lineno}"
        for path in EVERYTHING
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    ]
    assert careless == []


@pytest.mark.parametrize("module", ["service.app", "redeem.cli", "redeem.client", "redeem.contract"])
def test_the_light_side_works_without_torch(module: str) -> None:
    """In a process where importing anything heavy raises."""
    program = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} must not be imported here")
sys.meta_path.insert(0, Blocker())
import {module}
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr


def test_files_and_functions_stay_small() -> None:
    written = [path for path in SOURCES if "migrations" not in path.parts]  # a migration is a record
    files = {name(path): len(path.read_text().splitlines()) for path in written}
    assert {path: lines for path, lines in files.items() if lines > 400} == {}
    functions = {
        f"{name(path)}:{node.name}": lines_of_code(node)
        for path in written
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {function: lines for function, lines in functions.items() if lines > 70} == {}


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without its docstring."""
    told = len((ast.get_docstring(function, clean=False) or "").splitlines())
    return (function.end_lineno or 0) - function.lineno + 1 - told


def test_the_migrations_are_one_line() -> None:
    """Numbered without gaps, each after the one before: two that were written side by side are found here."""
    files = sorted((ROOT / "migrations" / "versions").glob("*.py"))
    numbers = [file.name[:4] for file in files]
    assert numbers == [f"{number:04}" for number in range(1, len(files) + 1)]
    for file, number, before in zip(files, numbers, [None, *numbers], strict=False):
        written = {line for line in file.read_text().splitlines() if "revision = " in line}
        assert written == {
            f'revision = "{number}"',
            f'down_revision = "{before}"' if before else "down_revision = None",
        }


def test_the_lock_names_no_package_index() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if "://" in line or "find-links" in line or "index-url" in line] == []


def test_the_lock_pins_a_pair_of_torch_and_torchvision_with_hashes() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    pins = [line.split(" ")[0] for line in locked.splitlines() if line[:1].isalnum()]
    assert {"torch==2.13.0", "torchvision==0.28.0"} <= set(pins)
    assert all("==" in pin for pin in pins)
    assert locked.count("--hash=sha256:") > len(pins)
