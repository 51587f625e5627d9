"""Measure layout, size, typing, documentation and language of the code.

Run `python -m tools.measure` in the repository root; `--json` prints the values for programs and
`--list NAME` the places behind one value. `tests/test_architecture.py` enforces the limits.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "src" / "mllm_msr"
TESTS: Final = ROOT / "tests"

Function = ast.FunctionDef | ast.AsyncFunctionDef

# Terms that the project replaced by the field's own (first word of each pair) and words that
# read as translated. Matched as whole words in code, docs and messages; underscores separate.
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

# First words of docstrings that are verbs in the imperative.
VERBS: Final = frozenset(
    """
    abort accept accumulate acquire act adapt add adjust advance aggregate align allocate allow
    announce answer append apply apportion approximate arrange ask assemble assert assign attach
    attend await
    average back backpropagate balance batch be begin bind block bootstrap bound bring broadcast
    build cache calculate calibrate call cancel cap cast change check choose clamp classify clean
    clear clip
    clone close cluster collapse collate collect combine compare compile complete compose compress
    compute concatenate condition configure confirm connect construct consume continue convert
    copy correct count cover crawl create crop cross cut cycle damage deal decide declare decode
    decompose decompress decrement deduplicate define delay delete delegate deliver demote denote
    derive describe
    detach detect determine dequeue deserialize destroy disable discard disconnect display
    distinguish distribute divide do
    double download draw drop dump duplicate embed emit empty enable encode encrypt end enforce
    enqueue ensure enter enumerate
    escape establish estimate evaluate evict examine exchange exclude execute exit expand expect
    explain export
    expose extend extract fail fall fetch fill filter finalize find finish fit fix flag flatten
    flip flush fold follow force forget fork form format forward free freeze fuse gather generate
    get give go group grow guard guess halve handle hash hide highlight hold identify ignore
    implement import include
    increment indent index infer inform init initialize inject insert inspect install interleave
    interpolate
    interpret intersect interrupt invalidate invert invoke iterate join jump keep kill label launch
    lay lead leave let limit line link list listen load locate lock log look loop lower make map
    mark
    mask match materialize measure merge migrate minimize mirror mix mock modify monitor move
    multiply mute
    name narrow negate normalize note notify number observe obtain offer omit open optimize order
    orient
    override overwrite pack pad parse partition pass patch pause perform permute persist pick
    place plan plot point poll pool pop populate postpone predict prefer prefix prepare
    prepend present preserve press
    prevent print prioritize process produce project promote propagate propose prove provide prune
    publish pull
    push put quantize query queue quote raise randomize rank reach react read rebuild receive
    recode recommend
    recompute reconnect record recover recurse redirect reduce refer refine refresh refuse register
    reject release reload remember remove rename render reopen reorder repair repeat rephrase replace
    replay
    reply report represent request require rerank reschedule reserve reset reshape resize resolve
    respond rest restart
    restore restrict resume retrieve retry return reuse reveal reverse revert rewrite roll rotate
    round route run sample sanitize satisfy save say scale scan schedule score search seed select
    send separate serialize serve set settle shape share shard shift shorten show shrink shuffle
    shut shutdown
    signal simplify simulate skip slice smooth snap solve sort spawn specify spill split spread
    spy stack
    stage standardize start state stop store stream strip submit subscribe substitute subtract
    suggest sum
    summarize supply support suppress suspend swap switch sync synchronize take tally tear tell
    terminate test throttle tie time tokenize total touch trace track train transfer transform
    translate transpose traverse treat trigger trim truncate try tune turn type unescape unfold
    unify uninstall
    unload unlock unpack unregister unwrap update upload upsert upcast use validate vary verify
    view visit vote wait walk warm warn watch weigh weight whiten widen wind wipe withhold work
    wrap write yield zero zip
    """.split()
)


@dataclass(frozen=True, slots=True)
class Place:
    """A function, class or module and where it is.

    Attributes:
        file: Path relative to the repository.
        line: Line of the definition.
        name: Name of the definition.
        value: What was measured there.
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


def functions(path: Path) -> Iterator[tuple[Function, bool]]:
    """Yield every function of a file and whether it is public."""

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
    """Return functions of the package with an argument or a result without a type."""
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
    """Return public modules, classes and functions without a docstring."""
    found = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if ast.get_docstring(tree) is None:
            found.append(Place(_name(path), 1, path.stem, "module"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                if ast.get_docstring(node) is None:
                    found.append(Place(_name(path), node.lineno, node.name, "class"))
        for function, public in functions(path):
            if public and ast.get_docstring(function) is None:
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
    """Return private module-level functions that are mentioned once in the package."""
    mentions = Counter[str]()
    private: list[Place] = []
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                mentions[f"{path}:{node.id}"] += 1
        for node in tree.body:
            if isinstance(node, Function) and node.name.startswith("_") and node.name[1] != "_":
                private.append(Place(_name(path), node.lineno, node.name, "private"))
    return [p for p in private if mentions[f"{ROOT / p.file}:{p.name}"] <= 1]


def private_functions() -> int:
    """Return the number of private module-level functions of the package."""
    return sum(
        isinstance(node, Function) and node.name.startswith("_") and node.name[1] != "_"
        for path in sources()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


def unmirrored() -> list[Place]:
    """Return modules of the package without a test file of their name at the same place."""
    found = []
    for path in sources():
        relative = path.relative_to(PACKAGE)
        if path.name in {"__init__.py", "__main__.py"}:
            continue
        folder = TESTS / relative.parent
        names = {f"test_{path.stem}.py", f"test_{path.stem.lstrip('_')}.py"}
        if not any((folder / name).is_file() for name in names):
            found.append(Place(_name(path), 1, path.stem, "no test"))
    return found


def words(terms: tuple[str, ...], paths: list[Path]) -> list[Place]:
    """Return every occurrence of some terms, as whole words; underscores separate words."""
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
    """Return modules and packages directly below the package, without `__init__`, `__main__`."""
    modules = [path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted(modules + packages)


def measures() -> dict[str, float]:
    """Return every value of the table."""
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
        "modules with a test of their name, %": _percent(len(unmirrored()), len(modules)),
        "test lines per source line": round(test_lines / sum(files), 2),
        "entries at the top": len(top_entries()),
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
    """Print the table, or the places behind one value."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--list", choices=sorted(LISTS), help="print the places behind a value")
    parser.add_argument("--under", default="", help="with --list: only paths that contain this")
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
