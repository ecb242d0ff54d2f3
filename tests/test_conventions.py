"""What keeps notebooks, package and documents in step."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def plain(source):
    "A cell's code without magics and trailing semicolons' meaning."
    return "\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))


@each_notebook
def test_notebook_form(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert len(notebook.cells) <= 80, "split the chapter"
    assert all(re.fullmatch(r"[a-z][a-z0-9-]+", cell.id) for cell in notebook.cells), "cell ids are words"
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) <= 1
    first = notebook.cells[0].source
    assert re.match(r"# \S[^\n]*\n\n> \S", first), "a notebook opens with its title and one line on what it is"


@each_notebook
def test_imports_stand_alone(path):
    for cell in code_cells(path):
        statements = ast.parse(plain(cell.source)).body
        imports = [s for s in statements if isinstance(s, (ast.Import, ast.ImportFrom))]
        assert len(imports) in (0, len(statements)), f"cell {cell.id} mixes imports with code"
        assert not any(alias.name == "*" for s in imports for alias in s.names), f"cell {cell.id} has a star import"


@each_notebook
def test_exported_functions_are_documented(path):
    for cell in code_cells(path):
        if not re.search(r"^#\s*\|\s*export", cell.source, re.M):
            continue
        for node in ast.parse(plain(cell.source)).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_no_module_defines_a_name_twice():
    for path in sorted((ROOT / "mtep").rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert len(names) == len(set(names)), f"{path.name}: {sorted({n for n in names if names.count(n) > 1})}"


def test_package_is_what_the_notebooks_export(tmp_path):
    copy = tmp_path / "project"
    keep = shutil.ignore_patterns(".venv", ".git", "reports", "data", "_docs", "_proc", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=keep)
    command = "from nbdev.clean import nbdev_clean; from nbdev.doclinks import nbdev_export; nbdev_export(); nbdev_clean()"
    subprocess.run([sys.executable, "-c", command], cwd=copy, check=True)
    for folder, pattern in (("mtep", "*.py"), ("nbs", "*.ipynb")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            same = copy / path.relative_to(ROOT)
            assert same.is_file(), f"{path.relative_to(ROOT)} is exported by no notebook"
            assert same.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), f"run `make sync`: {path.name}"


def test_readme_is_the_index():
    from mtep.site import readme_text

    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme_text(ROOT / "nbs" / "index.ipynb"), "run `make sync`"


def test_constraints_pin_exactly_and_name_no_build():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^+\s]*", line) for line in pins)
    names = {re.split("==", line)[0].lower().replace("_", "-") for line in pins}
    wanted = re.findall(r"^    ([A-Za-z0-9._-]+)", (ROOT / "settings.ini").read_text(encoding="utf-8"), re.M)
    assert {name.lower().replace("_", "-") for name in wanted} <= names


def test_nothing_large_is_tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert not [f for f in files if f.stat().st_size > 3_500_000]
    drafts = [f for f in files if f.is_relative_to(ROOT / "reports") and any(p.startswith(".") for p in f.relative_to(ROOT).parts)]
    assert not drafts, "what an interrupted run left is no run"
    assert sum(f.stat().st_size for f in files if ROOT / "mtep" / "assets" in f.parents) < 25_000_000


def test_committed_runs_are_whole_and_honest():
    for folder in sorted((ROOT / "reports").glob("*/*/run.json")):
        if "local" in folder.relative_to(ROOT).parts:
            continue
        run, home = json.loads(folder.read_text(encoding="utf-8")), folder.parent
        assert run["status"] == "ok", home
        result = json.loads((home / "result.json").read_text(encoding="utf-8"))
        assert not result["synthetic"], f"{home} is SYNTHETIC and may not be committed"
        assert all((home / name).is_file() for name in result["files"])
        assert sum(f.stat().st_size for f in home.rglob("*") if f.is_file()) < 1_500_000, home
