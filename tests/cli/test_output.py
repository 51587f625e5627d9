"""Output of the commands: JSON, text, and tables that fit the terminal."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from mllm_msr.cli._output import emit, make_table, print_fitted, tell, unbroken


def test_values_are_printed_as_json_text_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": 1, "b": "x"}, as_json=True, plain="text")
    assert json.loads(capsys.readouterr().out) == {"a": 1, "b": "x"}
    emit({"a": 1}, as_json=False, plain="text")
    assert capsys.readouterr().out == "text\n"
    emit({"a": 1}, as_json=False, plain=Text("[bold]:smile:"))
    assert capsys.readouterr().out == "[bold]:smile:\n"
    emit({"a": 1, "b": "x"}, as_json=False)
    assert capsys.readouterr().out == "a: 1\nb: x\n"


def test_paths_and_commands_are_not_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    lines = ["Next  mllm-msr serve --run a-folder-with-a-long-name", "Report  x"]
    print_fitted(unbroken(lines))
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("is_terminal", "expected"),
    [(True, "There is no run at\na-folder-with-a-long-name. Check\nit.\n"), (False, None)],
)
def test_messages_are_broken_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    expected: str | None,
) -> None:
    monkeypatch.setenv("COLUMNS", "32")
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    text = "There is no run at a-folder-with-a-long-name. Check it."
    tell(text)
    assert capsys.readouterr().err == (expected or f"{text}\n")


def test_a_table_is_fitted_to_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = make_table("name", "n", "meaning", left=(0, 2), wrap=(2,))
    table.add_row("item_knn", "1", "similarity to the latest items")
    table.add_row("sasrec", "12", "[red]attention[/red]")
    print_fitted(table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name       n  meaning"
    assert lines[1] == "item_knn   1  similarity to"
    assert max(map(len, lines)) <= 30
    assert "[red]" in "".join(lines)
