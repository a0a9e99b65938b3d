"""The layout of the packages: imports go down, nothing goes round, and every file says in a sentence what it is."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from places import ROOT

# From top to bottom: what lies in a line imports from lines below, never from its own or from above.
FLOORS = {
    "wsidata": """
        __main__
        __init__
        cli
        hub
        datamodules quality
        datasets splits stats evaluation plots
        tiles
        slides
        transforms
        photos
        synthetic tables
        annotations
        staging
        formats
        remote
        jobs
        utils
        errors
    """,
    "streammodels": """
        __init__
        training
        explain
        streaming
        calls cases stages
        orientation
        memory
        backprop
        tracing
        losses
        models
        core
        errors
    """,
    "slidestream": """
        __main__
        __init__
        cli
        ensembles
        demo features predicting
        training
        heatmaps
        configs trained versions
    """,
}
MAX_FILES = 12
MAX_FIRST_LINE = 100


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports() -> Mapping[str, set[str]]:
    """Which modules each module names in its imports, also in functions and for type checking."""
    paths = {module_of(path): path for package in FLOORS for path in sources(package)}
    named: dict[str, set[str]] = defaultdict(set)
    for module, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text())):
            found: list[str] = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                for _ in range(node.level - 1):
                    package = package.rpartition(".")[0]
                base = ".".join(filter(None, (package if node.level else "", node.module)))
                found = [sub if (sub := f"{base}.{alias.name}") in paths else base for alias in node.names]
            named[module] |= {name for name in found if name in paths and name != module}
    return named


def room_of(module: str) -> tuple[str, str]:
    package, _, rest = module.partition(".")
    return package, rest.partition(".")[0] or "__init__"


def circle(arrows: Iterable[tuple[str, str]]) -> list[str]:
    """Names that import each other in a circle; none if there is no circle."""
    graph: dict[str, set[str]] = defaultdict(set)
    for source, target in arrows:
        graph[source].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_the_check_finds_circles() -> None:
    assert circle([("a", "b"), ("b", "c"), ("c", "a")])
    assert not circle([("a", "b"), ("a", "c"), ("b", "c")])


@pytest.mark.slow
def test_imports_are_found_wherever_they_stand() -> None:
    assert "wsidata.slides.pipeline" in imports()["wsidata.slides.slide"]  # in a function
    assert "wsidata.slides.lazy_image" in imports()["wsidata.slides"]  # for type checking
    assert sum(map(len, imports().values())) > 500


@pytest.mark.parametrize("package", FLOORS)
def test_imports_between_folders_go_down(package: str) -> None:
    floors = [line.split() for line in FLOORS[package].strip().splitlines()]
    floor = {room: height for height, rooms in enumerate(reversed(floors)) for room in rooms}
    assert {room_of(module_of(path))[1] for path in sources(package)} <= set(floor), "a folder without a floor"
    upward = [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in names
        if room_of(module)[0] == package == room_of(name)[0] and room_of(module) != room_of(name)
        if floor[room_of(module)[1]] <= floor[room_of(name)[1]]
    ]
    assert not upward


def test_files_do_not_import_each_other_in_a_circle() -> None:
    assert not circle((module, name) for module, names in imports().items() for name in names)


@pytest.mark.parametrize("package", FLOORS)
def test_what_lies_in_a_folder_does_not_import_each_other_in_a_circle(package: str) -> None:
    """Files and folders that lie side by side, each folder taken as a whole."""
    folders = {path.parent for path in sources(package)}
    for folder in folders:
        inside = f"{module_of(folder / '__init__.py')}."
        arrows = {
            (module.removeprefix(inside).partition(".")[0], name.removeprefix(inside).partition(".")[0])
            for module, names in imports().items()
            for name in names
            if module.startswith(inside) and name.startswith(inside)
        }
        assert not circle((source, target) for source, target in arrows if source != target), folder


def test_no_folder_holds_more_files_than_can_be_taken_in() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): len(files)
        for package in FLOORS
        for folder in {path.parent for path in sources(package)}
        if len(files := [path for path in folder.glob("*.py") if path.name != "__init__.py"]) > MAX_FILES
    }
    assert not crowded


@pytest.mark.parametrize("package", [*FLOORS, "recipes"])
def test_modules_say_what_they_are_in_a_sentence(package: str) -> None:
    riddles = {}
    for path in sources(package):
        first, *more = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines() or [""]
        sentence = bool(first) and first.endswith(".") and ":" not in first and len(first) <= MAX_FIRST_LINE
        if not sentence or (more and more[0]):
            riddles[str(path.relative_to(ROOT))] = first
    assert not riddles


def test_floors_name_each_folder_once() -> None:
    for floors in FLOORS.values():
        rooms = floors.split()
        assert all(one != other for one, other in pairwise(sorted(rooms)))
