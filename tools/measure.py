"""Measure layout, size, typing, documentation and language of the code.

Run `python -m tools.measure` in the repository root. `--json` prints the values as JSON, and
`--list NAME` prints the places that a value is computed from. `tests/test_architecture.py` enforces
limits.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "src" / "mllm_msr"
TESTS: Final = ROOT / "tests"

Function = ast.FunctionDef | ast.AsyncFunctionDef

_NO_CODE: Final = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)

# Terms that the project no longer uses, with the terms that replace them. They are matched as whole
# words in code, docs and messages; underscores separate words.
REPLACED_TERMS: Final = {
    "rival": "baseline",
    "rivals": "baselines",
    "trail": "preference history",
    "trails": "preference histories",
    "noun": "item type",
    "nouns": "item types",
    "spared": "cached",
    "blending": "stacking",
    "blend": "stacking",
    "beginnings": "shared prefixes",
    "told": "given, precomputed",
    "untuned": "zero-shot",
    "joiner": "ensemble",
    "crew": "actor pool",
    "ledger": "scheduler",
    "bill": "cost estimate",
    "foreign": "external",
    "stories": "case studies",
    "resting": "circuit open",
    "endless": "repetition loop",
    "unmet": "new to the user",
    "mend": "fix",
    "mended": "fixed",
    "he": "they",
    "him": "them",
    "his": "their",
    "himself": "themselves",
    "judge": "evaluate",
    "judged": "evaluated",
    "judges": "evaluates",
    "judging": "evaluating",
    "picture": "image",
    "pictures": "images",
    "replies": "responses",
    "lessons": "training context",
}
# Replaced terms, and other phrases that read like a translation.
ODD_WORDS: Final = (
    *REPLACED_TERMS,
    "whatever",
    "whoever",
    "whichever",
    "nobody",
    "wished",
    "thousand million",
    "goes on",
    "go on",
    "went on",
    "of late",
    "lets go",
    "let go",
    "to be had",
    "for nothing",
    "speaks alone",
    "stands in",
    "stand in",
    "stands for",
    "stands beside",
    "by then",
    "all the same",
    "next to no",
    "one road",
    "at hand",
    "knows nothing",
    "kept apart",
    "sorrow",
)

# Verbs that may begin the docstring of a function.
VERBS: Final = frozenset((ROOT / "tools" / "verbs.txt").read_text(encoding="utf-8").split())


@dataclass(frozen=True, slots=True)
class Place:
    """Location of a function, class, module or word.

    Attributes:
        file: Path relative to the repository.
        line: Line number.
        name: Name of the definition, or the word.
        value: The measured value, or what is wrong.
    """

    file: str
    line: int
    name: str
    value: int | str | bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name} {self.value}"


def sources(folder: Path = PACKAGE) -> list[Path]:
    """Return all Python files below a folder, sorted."""
    return sorted(folder.rglob("*.py"))


def n_lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def n_code_lines(path: Path) -> int:
    """Return the number of lines of a file that are not blank, a comment or a docstring."""
    text = path.read_text(encoding="utf-8")
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            code.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(code)


def functions(path: Path) -> Iterator[tuple[Function, bool]]:
    """Yield every function of a file, and whether it is public."""

    def walk(node: ast.AST, public: bool, nested: bool) -> Iterator[tuple[Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from walk(child, public and not child.name.startswith("_"), nested)
            elif isinstance(child, Function):
                yield child, public and not nested and not child.name.startswith("_")
                yield from walk(child, public, True)
            else:
                yield from walk(child, public, nested)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True, False)


def function_lengths() -> list[Place]:
    """Return the length in lines of every function of the package."""
    return [
        Place(
            _name(path), node.lineno, node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        )
        for path in sources()
        for node, _ in functions(path)
    ]


def untyped_functions() -> list[Place]:
    """Return functions of the package in which an argument or the return value has no type."""
    found = []
    for path in sources():
        for node, _ in functions(path):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            named = [a for a in arguments if a.arg not in {"self", "cls"}]
            if any(a.annotation is None for a in named) or (
                node.returns is None and node.name != "__init__"
            ):
                found.append(Place(_name(path), node.lineno, node.name, "untyped"))
    return found


def undocumented() -> list[Place]:
    """Return public modules, classes and functions without a docstring, overloads left out."""
    found = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if ast.get_docstring(tree) is None:
            found.append(Place(_name(path), 1, path.stem, "module"))
        classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
        found += [
            Place(_name(path), node.lineno, node.name, "class")
            for node in classes
            if not node.name.startswith("_") and ast.get_docstring(node) is None
        ]
        for function, public in functions(path):
            overload = any(ast.unparse(each) == "overload" for each in function.decorator_list)
            if public and not overload and ast.get_docstring(function) is None:
                found.append(Place(_name(path), function.lineno, function.name, "function"))
    return found


def function_docstrings() -> list[Place]:
    """Return the first word of every function docstring of the package."""
    found = []
    for path in sources():
        for node, _ in functions(path):
            text = ast.get_docstring(node)
            if text:
                word = re.match(r"[`\"'(]*([\w-]*)", text).group(1)  # type: ignore[union-attr]
                found.append(Place(_name(path), node.lineno, node.name, word.lower()))
    return found


def not_verb_first() -> list[Place]:
    """Return function docstrings that do not begin with a verb in the imperative."""
    return [place for place in function_docstrings() if place.value not in VERBS]


def single_use_functions() -> list[Place]:
    """Return private module-level functions that are used at most once in their module."""
    mentions = Counter[str]()
    private: list[Place] = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                mentions[f"{path}:{node.id}"] += 1
        private += [
            Place(_name(path), node.lineno, node.name, "private")
            for node in tree.body
            if isinstance(node, Function) and node.name.startswith("_") and node.name[1] != "_"
        ]
    return [p for p in private if mentions[f"{ROOT / p.file}:{p.name}"] <= 1]


def private_functions() -> int:
    """Return the number of private module-level functions of the package."""
    return sum(
        isinstance(node, Function) and node.name.startswith("_") and node.name[1] != "_"
        for path in sources()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


def unmirrored() -> list[Place]:
    """Return modules of the package that have no test file, with the name of the expected file."""
    found = []
    for path in sources():
        relative = path.relative_to(PACKAGE)
        if path.name in {"__init__.py", "__main__.py"}:
            continue
        folder = TESTS / relative.parent
        names = {f"test_{path.stem}.py", f"test_{path.stem.lstrip('_')}.py"}
        if not any((folder / name).is_file() for name in names):
            expected = _name(folder / f"test_{path.stem.lstrip('_')}.py")
            found.append(Place(_name(path), 1, path.stem, f"has no test file {expected}"))
    return found


def words(terms: tuple[str, ...], paths: list[Path]) -> list[Place]:
    """Find terms in files as whole words; underscores separate words."""
    pattern = re.compile(
        r"(?<![A-Za-z])(" + "|".join(re.escape(term) for term in terms) + r")(?![A-Za-z])",
        re.IGNORECASE,
    )
    return [
        Place(_name(path), number, match.group(1), "word")
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in pattern.finditer(line)
    ]


def top_entries() -> list[str]:
    """Return the top-level modules and packages, without `__init__` and `__main__`."""
    modules = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted(modules + packages)


def measures() -> dict[str, float]:
    """Compute all values by name."""
    files = [n_lines(path) for path in sources()]
    lengths = [int(place.value) for place in function_lengths()]
    test_lines = sum(n_lines(path) for path in TESTS.rglob("*.py"))
    documented = undocumented()
    n_public = sum(public for path in sources() for _, public in functions(path))
    n_public += sum(
        isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ) + len(files)
    modules = [path for path in sources() if path.name not in {"__init__.py", "__main__.py"}]
    docstrings = function_docstrings()
    return {
        "files": len(files),
        "file lines, median": statistics.median(files),
        "file lines, max": max(files),
        "function lines, median": statistics.median(lengths),
        "function lines, max": max(lengths),
        "typed functions, %": _percent(len(untyped_functions()), len(lengths)),
        "public docstrings, %": _percent(len(documented), n_public),
        "modules with a test file, %": _percent(len(unmirrored()), len(modules)),
        "test lines per source line": round(test_lines / sum(files), 2),
        "test code lines per source code line": round(
            sum(map(n_code_lines, TESTS.rglob("*.py"))) / sum(map(n_code_lines, sources())), 2
        ),
        "top-level modules and packages": len(top_entries()),
        "docstrings that begin with a verb, %": _percent(len(not_verb_first()), len(docstrings)),
        "odd words per 1,000 lines": round(1000 * len(words(ODD_WORDS, sources())) / sum(files), 2),
        "private functions used once, %": round(
            100 * len(single_use_functions()) / max(1, private_functions()), 1
        ),
    }


LISTS: Final = {
    "functions": lambda: sorted(function_lengths(), key=lambda p: -int(p.value))[:30],
    "typed": untyped_functions,
    "docs": undocumented,
    "tests": unmirrored,
    "verbs": not_verb_first,
    "words": lambda: words(ODD_WORDS, sources()),
    "once": single_use_functions,
}


def main() -> None:
    """Print all values, or the places that one value is computed from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--list", choices=sorted(LISTS), help="print the places of a value")
    parser.add_argument("--under", default="", help="with --list: print only paths containing this")
    arguments = parser.parse_args()
    if arguments.list:
        for place in LISTS[arguments.list]():
            if arguments.under in place.file:
                print(place)
    elif arguments.json:
        print(json.dumps(measures(), indent=2))
    else:
        for name, value in measures().items():
            print(f"{name:<40} {value:>8g}")


def _percent(missing: int, total: int) -> float:
    return round(100 * (1 - missing / max(1, total)), 1)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
