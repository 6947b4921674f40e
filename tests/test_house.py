"""The rooms of the house: lower ones never import higher ones, and no module imports itself by a detour."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import seekr

HOUSE = Path(seekr.__file__).parent
FLOORS = (
    "errors",
    "disk",
    "nested",
    "other_names",
    "distributed",
    "progress",
    "scoring",
    "data",
    "modeling",
    "attention",
    "memory",
    "methods",
    "training",
    "config",
    "evaluation",
    "runs",
    "report",
    "use",
    "planning",
    "tuning",
    "bench",
    "builtin",
    "cli",
    "__main__",
)
"""From the ground up. What `seekr/__init__.py` offers it imports when it is asked for."""


def modules() -> dict[str, Path]:
    found = {}
    for path in HOUSE.rglob("*.py"):
        parts = path.relative_to(HOUSE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path], *, top: bool | None = None) -> dict[str, int]:
    """Module of seekr → line, for every import of a file: at the top, in a function, or for types.

    `top`: those at the top alone, or those that are not.
    """
    found, tree = {}, ast.parse(path.read_text(encoding="utf-8"))
    first = set(tree.body)
    for node in ast.walk(tree):
        if top is not None and (node in first) != top:
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            target = name if name in known else name.rpartition(".")[0]
            if target in known and target != "seekr":
                found.setdefault(target, node.lineno)
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_a_floor():
    rooms = {room(module) for module in modules() if module != "seekr"}
    assert rooms == set(FLOORS)
    assert len([path for path in HOUSE.iterdir() if path.name != "__pycache__"]) <= 26


def test_one_file_is_one_idea_of_at_most_300_lines():
    long = {path.name: lines for path in modules().values() if (lines := len(path.read_text().splitlines())) > 300}
    assert not long


def test_lower_rooms_never_import_higher_ones():
    known = modules()
    arrows = [
        f"{path.relative_to(HOUSE.parent)}:{line} imports {target}"
        for module, path in sorted(known.items())
        if module != "seekr"
        for target, line in imports(path, known).items()
        if FLOORS.index(room(target)) > FLOORS.index(room(module))
    ]
    assert not arrows, "\n".join(arrows)


def test_no_module_imports_itself_by_a_detour():
    known = modules()
    graph = {module: set(imports(path, known)) for module, path in known.items() if module != "seekr"}
    for place in (0, 1):  # what no circle comes to, then what comes to none
        ends = {"first"}
        while ends:
            targets = set().union(*graph.values()) if place == 0 else set(graph)
            ends = {m for m, to in graph.items() if (m not in targets if place == 0 else not to & targets)}
            graph = {module: to for module, to in graph.items() if module not in ends}
    circles = [f"{module}: {', '.join(sorted(to & graph.keys()))}" for module, to in sorted(graph.items())]
    assert not circles, "\n".join(circles)


def loaded_with(module: str, tops: dict[str, dict[str, int]]) -> set[str]:
    """The modules of seekr that are imported once this one is: by the tops of files, packages on the way included."""
    found, new = set(), {module}
    while new:
        found |= new
        packages = {one.rsplit(".", depth)[0] for one in new for depth in range(1, one.count("."))}
        new = ({target for one in new for target in tops[one]} | packages) - found
    return found


def test_no_import_waits_for_what_is_loaded_anyway():
    """In a function, or for types alone, it has to save the start of a command something."""
    known = modules()
    tops = {module: imports(path, known, top=True) for module, path in known.items()}
    for_nothing = [
        f"{path.relative_to(HOUSE.parent)}:{line} imports {target}"
        for module, path in sorted(known.items())
        for target, line in imports(path, known, top=False).items()
        if module != "seekr" and target in loaded_with(module, tops)
    ]
    assert not for_nothing, "\n".join(for_nothing)


def test_the_drawing_has_every_room_and_names_no_module_that_is_gone():
    page = (HOUSE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing, known = page.split("```")[1], modules()
    rooms = re.findall(r"(?:^|  )([a-z_]+)  ", drawing, re.MULTILINE) + drawing.split("\n")[-2].split(", ")
    assert rooms[::-1] == [room for room in FLOORS if room in rooms]
    assert sorted([*rooms, "__main__"]) == sorted(FLOORS)
    named = [name for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", page) if not name.endswith(".json")]
    assert named
    assert [name for name in named if f"seekr.{name}" not in known] == []


READ_OTHER_FILES = {
    "data",  # rows, which may come by a FIFO
    "config",  # what the user wrote
    "bench",  # the system's own
    "disk/regular.py",
    "disk/sealed.py: _read_key",  # the key, which may come by a FIFO
}
OPEN = {"open", "read_text", "read_bytes", "load_file", "safe_open", "load", "memmap", "fromfile"}
WRITES = {"a", "ab+", "xb"}


def opened(path: Path) -> list[str]:
    """Where a file is opened to be read by other means than seekr.disk's: FILE: FUNCTION."""
    name = path.relative_to(HOUSE).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            called, arguments = call.func, call.args
            means = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            owner = getattr(called.value, "id", "") if isinstance(called, ast.Attribute) else ""
            if means not in OPEN or owner in ("Memory", "os"):
                continue
            if means == "load" and owner not in ("torch", "np", "json", "pickle"):
                continue
            if means in ("read_text", "read_bytes") and not isinstance(called, ast.Attribute):
                continue  # seekr.disk's
            if means in ("load_file", "safe_open") and ast.unparse(arguments[0]).startswith("regular("):
                continue
            if means == "open" and any(isinstance(mode, ast.Constant) and mode.value in WRITES for mode in arguments):
                continue
            found.append(f"{name}: {function.name}")
    return found


def test_files_of_a_run_are_opened_by_one_opener():
    """A FIFO in the place of a file that is opened by other means keeps a command waiting for ever."""
    others = [
        place
        for path in modules().values()
        for place in opened(path)
        if not {place, place.partition(":")[0], place.partition("/")[0]} & READ_OTHER_FILES
    ]
    assert not others, "\n".join(others)


def test_the_test_of_the_opener_sees_what_goes_past_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.HOUSE", tmp_path)
    for number, line in enumerate(
        ["open(path)", "path.open()", "path.open('rb')", "path.read_text()", "load_file(path)", "np.load(path)"]
    ):
        (tmp_path / f"{number}.py").write_text(f"def f(path):\n    return {line}\n")
        assert opened(tmp_path / f"{number}.py") == [f"{number}.py: f"]
    (tmp_path / "no.py").write_text("def f(path):\n    path.open('xb'), read_text(path), load_file(regular(path))\n")
    assert not opened(tmp_path / "no.py")


WRITERS = {
    "print": "errors.py",
    "sys.stdout.write": "errors.py",
    "sys.stderr.write": "errors.py",
    "Console": "progress.py",
    "rich.print": "progress.py",
    "rich.text": "progress.py",
}
"""What reaches a terminal → the file in which alone it is done: there nothing steers it."""


def written(path: Path) -> list[str]:
    """How a file writes to a terminal: calls, and what it imports to make texts of."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            found.append(ast.unparse(node.func))
        if isinstance(node, ast.ImportFrom) and node.module == "rich.text":
            found.append("rich.text")
    return [name for name in found if name in WRITERS]


def test_texts_reach_the_terminal_by_one_way():
    """A name in a received run would clear the screen, or look like what it is not, by another way."""
    others = [
        f"{path.relative_to(HOUSE)}: {name}"
        for path in modules().values()
        for name in written(path)
        if path.relative_to(HOUSE).as_posix() != WRITERS[name]
    ]
    assert not others, "\n".join(others)


def test_the_test_of_the_terminal_sees_what_goes_past_it(tmp_path: Path):
    for number, name in enumerate(WRITERS):
        (tmp_path / f"{number}.py").write_text(
            "from rich.text import Text\n" if name == "rich.text" else f"def f(text):\n    {name}(text)\n"
        )
        assert written(tmp_path / f"{number}.py") == [name]
