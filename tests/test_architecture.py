"""The house rules, as tests: each failure names the place, the rule and what mends it."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("conditions", "state", "connectors", "streams", "deploy")
LONGEST_FUNCTION = 70  # lines, of one screen
SHORTEST_REASON = 10  # characters
KAFKA_CLIENTS = {"faust", "mode", "aiokafka", "confluent_kafka"}

# Which of our packages each package may import, beside itself: `streams → {connectors, state} → conditions`.
MAY_IMPORT = {
    "conditions": set[str](),
    "state": {"conditions"},
    "connectors": {"conditions"},
    "streams": {"conditions", "state", "connectors", "deploy"},
    "deploy": set[str](),
}

# Where a package is held to a list of outside modules; the others may use any but the Kafka clients.
MAY_USE = {
    "conditions": {"msgspec", "xxhash"},  # pure functions, so that they can be compiled
    "deploy": set[str](),  # runs before anything is installed
}

SKIPPED_FOLDERS = {"__pycache__", "build", "dist", "data", "libs", "target", "node_modules"}

# Written so that this file does not name what it forbids.
FORBIDDEN_TEXT = {
    r"(?<![\w.])/(work|root|Users)/": "a path of one machine: make it relative to the file, or an argument",
    r"\b(pypi[.]org|pythonhosted[.]org)": "a registry host: name the package only, each machine's pip knows its index",
    r"\brepo[\w.]*[.]maven[.]": "a registry host: name the artefact only, each machine's Maven knows its repository",
    r"\bregistry[.]npmjs[.]": "a registry host: name the package only, each machine's npm knows its registry",
}
PAGE = re.compile(r"(?<![\w./:-])(?:[\w-]+/)*[A-Z][A-Z_-]+[.]md\b")  # a page such as the contributors' one, in capitals
PATH_UPWARDS = re.compile(r"(?<![\w./:-])(?:[.][.]/)+[\w-][\w./-]*")
MARKDOWN_LINK = re.compile(r"\]\((?!\w+:|#)(?P<target>[^)#\s]+)")


class Module:
    """A parsed Python file of the project and the name it is imported by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = path.relative_to(ROOT).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text, filename=self.place)
        self.is_package = path.name == "__init__.py"
        parts = path.relative_to(ROOT).with_suffix("").parts
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.package = parts[0]

    def imports(self) -> Iterator[tuple[int, list[str]]]:
        """Each imported name with its line: the longest reading first, as `from a import b` may name the module a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, [alias.name]
            elif isinstance(node, ast.ImportFrom):
                base = self.resolve(node)
                for alias in node.names:
                    yield node.lineno, [f"{base}.{alias.name}", base]

    def resolve(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = self.name.split(".")
        above = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*above, *([node.module] if node.module else [])])

    def comments(self) -> Iterator[tuple[int, str]]:
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@cache
def modules() -> list[Module]:
    return [Module(path) for path in files() if path.suffix == ".py"]


@cache
def files() -> list[Path]:
    """All files of the project but those that tools make and fetch."""
    return sorted(path for top in ROOT.iterdir() if not is_skipped(top) for path in below(top))


def below(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for child in path.iterdir():
            if not is_skipped(child):
                yield from below(child)
    elif path.is_file():
        yield path


def is_skipped(path: Path) -> bool:
    hidden = path.name.startswith(".") and path.name not in {".ci", ".github", ".gitignore", ".gitattributes"}
    return hidden or (path.is_dir() and path.name in SKIPPED_FOLDERS) or path.is_symlink()


def ours() -> list[Module]:
    return [module for module in modules() if module.package in PACKAGES]


def in_tests() -> list[Module]:
    return [module for module in modules() if module.package == "tests"]


def assert_none(findings: Iterable[str]) -> None:
    found = sorted(findings)
    assert not found, "\n  " + "\n  ".join(found)


def test_imports_between_packages_point_one_way() -> None:
    assert_none(
        f"{module.place}:{line} imports {names[-1]}, but of our packages {module.package} may import "
        f"{', '.join(['itself', *sorted(MAY_IMPORT[module.package])])}: "
        "move what both need down, or pass it in as an argument"
        for module in ours()
        for line, names in module.imports()
        if top_of(names) in {*PACKAGES, "tests"} - MAY_IMPORT[module.package] - {module.package}
    )


def test_only_streams_knows_faust_and_kafka() -> None:
    assert_none(
        f"{module.place}:{line} imports {names[-1]}: only streams/ knows Kafka; take plain data here, and "
        "let streams/ translate"
        for module in ours()
        for line, names in module.imports()
        if module.package != "streams" and top_of(names) in KAFKA_CLIENTS
    )


def test_packages_use_no_more_than_they_are_allowed() -> None:
    assert_none(
        f"{module.place}:{line} imports {names[-1]}: {module.package}/ uses the standard library"
        f"{''.join(f', {name}' for name in sorted(MAY_USE[module.package]))} and nothing else"
        for module in ours()
        if module.package in MAY_USE
        for line, names in module.imports()
        if top_of(names) not in {*sys.stdlib_module_names, *PACKAGES, *MAY_USE[module.package]}
    )


def top_of(names: list[str]) -> str:
    return names[-1].split(".")[0]


def test_modules_do_not_import_in_circles() -> None:
    arrows = {module.name: imported_modules(module) for module in modules()}
    circle = find_circle(arrows)
    assert circle is None, (
        f"{' → '.join(circle or [])}: move what two modules share into a third, which imports neither"
    )


def imported_modules(module: Module) -> set[str]:
    known = {each.name for each in modules()}
    readings = (next((name for name in names if name in known), None) for _, names in module.imports())
    return {name for name in readings if name is not None and name != module.name}


def find_circle(arrows: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return None
        circle = next(filter(None, (walk(each, [*way, name]) for each in sorted(arrows[name]))), None)
        done.add(name)
        return circle

    return next(filter(None, (walk(name, []) for name in sorted(arrows))), None)


def test_a_circle_of_imports_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_functions_fit_on_a_screen() -> None:
    assert_none(
        f"{module.place}:{node.lineno} {node.name} has {length} lines, over {LONGEST_FUNCTION}: "
        "give a part of it a name and a function of its own"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION
    )


def test_every_module_says_what_it_is_for() -> None:
    assert_none(
        f"{module.place}: no docstring; begin the file with a line that says what it is for"
        for module in modules()
        if ast.get_docstring(module.tree) is None
    )


def test_every_silenced_check_names_its_code_and_its_reason() -> None:
    assert_none(
        f"{module.place}:{line} {fault}"
        for module in modules()
        for line, comment in module.comments()
        if (fault := silencing_fault(comment)) is not None
    )


SILENCERS = re.compile(r"#\s*(?P<what>noqa|type:\s*ignore)\b(?P<rest>[^#]*(?:#\s*(?!noqa|type:\s*ignore).*)?)")
WHOLE_FILE = re.compile(r"#\s*(ruff|flake8):\s*noqa|#\s*mypy:")
NOQA_WITH_REASON = re.compile(rf":\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*\s*[-:#]+\s*\S.{{{SHORTEST_REASON - 1},}}")
IGNORE_WITH_REASON = re.compile(rf"\[[a-z-]+(,\s*[a-z-]+)*\]\s+#\s*\S.{{{SHORTEST_REASON - 1},}}")


def silencing_fault(comment: str) -> str | None:
    if WHOLE_FILE.search(comment):
        return "silences a check for the whole file: do it on the line, or in pyproject.toml with the reason"
    for found in SILENCERS.finditer(comment):
        if found["what"] == "noqa" and not NOQA_WITH_REASON.match(found["rest"]):
            return "write `# noqa: CODE - the reason`"
        if found["what"] != "noqa" and not IGNORE_WITH_REASON.match(found["rest"]):
            return "write `# type: ignore[code]  # the reason`"
    return None


@pytest.mark.parametrize(
    ("comment", "is_fine"),
    [
        ("# noqa: S603 - a list, never a shell", True),
        ("# noqa: S603, PLR2004 - a list, never a shell", True),
        ("# type: ignore[misc]  # the library ships no types", True),
        ("# type: ignore[misc]  # the library ships no types  # noqa: E501 - a long URL", True),
        ("# a plain remark", True),
        ("# noqa", False),
        ("# noqa: S603", False),
        ("# noqa: S603 - why", False),
        ("# type: ignore", False),
        ("# type: ignore[misc]", False),
        ("# ruff: noqa: F401", False),
    ],
)
def test_a_silenced_check_without_code_or_reason_is_found(comment: str, is_fine: bool) -> None:
    assert (silencing_fault(comment) is None) == is_fine


def test_tests_wait_for_a_condition_not_for_time_to_pass() -> None:
    assert_none(
        f"{module.place}:{node.lineno} sleeps: pass the time in as an argument, or wait for what shall become true "
        "with a deadline"
        for module in in_tests()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}
    )


def test_files_name_no_machine_and_no_registry() -> None:
    assert_none(
        f"{place} names {found[0]!r}, {fix}"
        for _, place, line in all_lines()
        for pattern, fix in FORBIDDEN_TEXT.items()
        if (found := re.search(pattern, line)) is not None
    )


def test_pages_and_paths_that_are_named_exist() -> None:
    assert_none(
        f"{place} names {name}, which is not in the project: mend the name, or bring what it says into docs/"
        for path, place, line in all_lines()
        for name in named_paths(path, line)
        if not is_there(path, name)
    )


def named_paths(path: Path, line: str) -> list[str]:
    links = [found["target"] for found in MARKDOWN_LINK.finditer(line)] if path.suffix == ".md" else []
    return [*PAGE.findall(line), *PATH_UPWARDS.findall(line), *links]


def is_there(path: Path, name: str) -> bool:
    places = [(start / name).resolve() for start in (path.parent, ROOT)]
    return any(place.exists() and place.is_relative_to(ROOT) for place in places)


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("see NO_SUCH_PAGE.md", ["NO_SUCH_PAGE.md"]),
        ("see https://example.org/NO_SUCH_PAGE.md", []),
        ("open ../elsewhere/file", ["../elsewhere/file"]),
        ("the path /a/../b of a URL", []),
        ("[how](docs/no-such-page.md#part) and [where](https://example.org)", ["docs/no-such-page.md"]),
    ],
)
def test_a_path_that_leads_nowhere_is_found(line: str, names: list[str]) -> None:
    page = ROOT / "page.md"
    assert [name for name in named_paths(page, line) if not is_there(page, name)] == names


def all_lines() -> Iterator[tuple[Path, str, str]]:
    """Each line of each text file, with its file and its place as `file:number`; but for the examples of this one."""
    for path in files():
        if path != Path(__file__):
            for number, line in enumerate(text_lines(path), start=1):
                yield path, f"{path.relative_to(ROOT).as_posix()}:{number}", line


def text_lines(path: Path) -> list[str]:
    content = path.read_bytes()
    return [] if b"\0" in content else content.decode("utf-8", errors="replace").splitlines()


def test_files_end_with_one_line_feed() -> None:
    assert_none(
        f"{path.relative_to(ROOT).as_posix()}: end the file with exactly one line feed"
        for path in files()
        if (content := path.read_bytes()) and b"\0" not in content
        if not content.endswith(b"\n") or content.endswith(b"\n\n")
    )
