"""What holds for the project as a whole: packages apart, imports light, documents that run."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from places import ROOT
from preloaded import run_python

PACKAGES = ("wsidata", "streammodels", "slidestream")
HEAVY = ("torch", "torchvision", "lightning", "pyvips", "pandas", "sklearn", "matplotlib", "cv2", "albumentationsxl")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _imported_packages(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("wsidata", {"streammodels", "slidestream", "recipes"}),
        ("streammodels", {"wsidata", "slidestream", "recipes"}),
        ("slidestream", {"recipes"}),
    ],
)
def test_packages_do_not_know_each_other(folder: str, forbidden: set[str]) -> None:
    offenders = {str(path): found for path in _sources(folder) if (found := _imported_packages(path) & forbidden)}
    assert not offenders


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print(*sorted(set(sys.modules) & set({HEAVY!r})))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_exists(package: str) -> None:
    code = (
        f"import sys; [sys.modules.pop(name) for name in list(sys.modules) if name.split('.')[0] in {PACKAGES!r}]\n"
        f"import {package}; [getattr({package}, name) for name in {package}.__all__]; print(len({package}.__all__))"
    )
    assert int(run_python("-c", code, cwd=ROOT, check=True).stdout) > 0


def test_no_module_has_the_name_that_its_package_imports_from_it() -> None:
    """Importing the module would put it in the place of the name."""
    for init in (path for package in PACKAGES for path in _sources(package) if path.stem == "__init__"):
        for node in ast.walk(ast.parse(init.read_text())):
            module = node.module.rpartition(".")[2] if isinstance(node, ast.ImportFrom) and node.module else ""
            if isinstance(node, ast.ImportFrom) and module in [alias.name for alias in node.names]:
                assert not (init.parent / f"{module}.py").exists(), f"{init}: {module}"


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").exists()


@pytest.mark.parametrize("document", _documents(), ids=lambda path: path.name)
def test_python_examples_compile_and_import_names_that_exist(document: Path) -> None:
    for block in PYTHON_BLOCK.findall(document.read_text()):
        tree = ast.parse(block, filename=str(document))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
                module = __import__(node.module, fromlist=["_"])
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{document.name}: {node.module} has no {missing}"


def test_readme_examples_use_arguments_that_exist() -> None:
    import inspect

    import streammodels
    import wsidata

    callables = {
        "WSIDataModule": wsidata.WSIDataModule,
        "ImageFolderDataModule": wsidata.ImageFolderDataModule,
        "HubDataModule": wsidata.HubDataModule,
        "publish": wsidata.publish,
        "StreamingResNet": streammodels.StreamingResNet,
    }
    exported = set(inspect.signature(wsidata.export).parameters)  # publish hands on what it does not know
    seen = set()
    for node in ast.walk(ast.parse("\n".join(PYTHON_BLOCK.findall((ROOT / "README.md").read_text())))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in callables:
            parameters = set(inspect.signature(callables[node.func.id]).parameters)
            parameters |= exported if node.func.id == "publish" else set()
            assert {keyword.arg for keyword in node.keywords} <= parameters
            seen.add(node.func.id)
    assert seen == set(callables)


def test_all_packages_and_the_citation_state_the_version_of_the_project() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {import_module(package).__version__ for package in PACKAGES} == {stated}
    assert f"\nversion: {stated}\n" in (ROOT / "CITATION.cff").read_text()


def test_all_files_state_the_addresses_of_the_project() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    citation, site = (ROOT / "CITATION.cff").read_text(), (ROOT / "mkdocs.yml").read_text()
    assert f"repository-code: {urls['Repository']}\n" in citation
    assert f"repo_url: {urls['Repository']}\n" in site
    assert f"site_url: {urls['Documentation']}\n" in site
    assert f"url: {urls['Documentation']}\n" in citation


def test_links_of_the_readme_are_absolute_and_lead_to_files() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    pages, blob = urls["Documentation"], urls["Repository"] + "/blob/main/"
    raw = urls["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert all(link.startswith("https://") for link in links), "PyPI shows the README without the other files"
    for link in links:
        path = link.partition("#")[0]
        if path.startswith(pages) and path != pages:
            page = ROOT / "docs" / path.removeprefix(pages).rstrip("/")
            assert page.with_suffix(".md").is_file() or page.with_suffix(".ipynb").is_file(), link
        for base in (blob, raw):
            assert not path.startswith(base) or (ROOT / path.removeprefix(base)).exists(), link


def test_every_exported_name_is_in_the_reference() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").rglob("*.md"))
    directives = dict(re.findall(r"^::: (\S+)((?:\n    .*)*)", text, re.MULTILINE))
    missing = []
    for package in PACKAGES:
        module = import_module(package)
        for name in set(module.__all__) - {"__version__", "transforms"}:
            home = getattr(module, name).__module__
            options = directives.get(home)
            listed = re.search(r"[^_]members: \[(.*?)\]", options) if options is not None else None
            inside = options is not None and (listed is None or name in re.split(r",\s*", listed[1]))
            if f"{home}.{name}" not in directives and not inside:
                missing.append(f"{home}.{name}")
    assert not missing, "add them to a page in docs/api"


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_stored_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


def test_nothing_is_left_unfinished() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|NotImplemented" + r"Error)\b")
    unfinished = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in (*PACKAGES, "recipes", "tests", "docs")
        for path in _sources(folder)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if marks.search(line)
    ]
    assert not unfinished


def test_no_file_names_a_folder_of_the_machine_it_was_written_on() -> None:
    private = re.compile(r"/(?:work|home|tmp)/\w")
    documents = [*_documents(), ROOT / "CHANGELOG.md", ROOT / "Makefile", ROOT / "pyproject.toml"]
    sources = [path for folder in (*PACKAGES, "recipes", "tests", "docs") for path in _sources(folder)]
    named = [str(path.relative_to(ROOT)) for path in (*documents, *sources) if private.search(path.read_text())]
    assert not named
