"""`evaluate`: computes the metrics of a run or of external tables."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import scored_candidates
from mllm_msr.errors import DataError, UnknownNameError, UsageError
from mllm_msr.evaluation.evaluator import evaluate_scores


def test_a_run_is_evaluated_with_its_own_settings(invoke, finished: Path) -> None:
    done = invoke("evaluate", "--run", finished, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["run"] == str(finished)


def test_external_tables_are_evaluated(invoke, finished: Path, tmp_path: Path) -> None:
    tables = ["--candidates", finished / "candidates.parquet"]
    tables += ["--scores", finished / "scores/popularity.parquet"]
    done = invoke("evaluate", *tables, "--out", tmp_path / "metrics.json")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Uniform negatives, 12 users")
    assert lines[2].startswith("Popularity")
    assert lines[-1] == f"All metrics: {tmp_path / 'metrics.json'}"
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert "uniform" in found["metrics"]["popularity"]
    assert found["comparisons"] == []
    assert json.loads(invoke("evaluate", *tables, "--json").stdout) == found


@pytest.mark.parametrize("option", ["--candidates", "--scores"])
def test_candidates_and_scores_must_be_given_together(fail, tmp_path: Path, option: str) -> None:
    with pytest.raises(UsageError, match=f"only {option} is given"):
        fail("evaluate", option, tmp_path / "table.parquet")


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    path = tmp_path / "candidates.csv"
    path.write_text("user_id,item_id,label\nu,a,1\nu,b,0\n")
    return path


def write_scores(path: Path, first: float) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"user_id,item_id,score\nu,a,{first}\nu,b,0.5\n")
    return path


def test_files_of_the_same_name_are_named_after_their_folders(
    invoke, candidates: Path, tmp_path: Path
) -> None:
    files = [
        write_scores(tmp_path / "A/scores.csv", 1.0),
        write_scores(tmp_path / "B/scores.csv", 0.0),
        write_scores(tmp_path / "B/other.csv", 0.0),
    ]
    options = [option for file in files for option in ("--scores", file)]
    found = json.loads(invoke("evaluate", "--candidates", candidates, *options, "--json").stdout)
    metrics = found["metrics"]
    assert {name: cells["external"]["auc"]["mean"] for name, cells in metrics.items()} == {
        "A/scores": 1.0,
        "B/scores": 0.0,
        "other": 0.0,
    }


@pytest.mark.parametrize("second", ["A/scores.csv", "A/scores@2.csv", "A/scores.tsv"])
def test_files_that_would_overwrite_each_other_are_rejected(
    fail, candidates: Path, tmp_path: Path, second: str
) -> None:
    files = [write_scores(tmp_path / "A/scores.csv", 1.0), write_scores(tmp_path / second, 1.0)]
    options = [option for file in files for option in ("--scores", file)]
    with pytest.raises(UsageError, match="have the same name"):
        fail("evaluate", "--candidates", candidates, *options)


def test_candidates_of_one_class_are_an_error(fail, candidates: Path, tmp_path: Path) -> None:
    candidates.write_text("user_id,item_id,label\nu,a,1\nu,b,1\n")
    scores = write_scores(tmp_path / "A/scores.csv", 1.0)
    with pytest.raises(DataError, match=r"No metric of 'scores' is defined.*1 only label 1"):
        fail("evaluate", "--candidates", candidates, "--scores", scores)


SIGNALS = {"mine": 0.3, "theirs": 0.2, "noise": 0.0}


@pytest.fixture
def models(tmp_path: Path) -> list[object]:
    """Return the options for candidates and scores of three models on the same 40 users."""
    scored_candidates.candidates().write_parquet(tmp_path / "c.parquet")
    options: list[object] = ["--candidates", tmp_path / "c.parquet", "evaluate.n_resamples=200"]
    for seed, (name, signal) in enumerate(SIGNALS.items()):
        scored(signal, seed).drop("label").write_parquet(tmp_path / f"{name}.parquet")
        options += ["--scores", tmp_path / f"{name}.parquet"]
    return options


def scored(signal: float, seed: int) -> pl.DataFrame:
    rows = scored_candidates.evaluated_rows()
    return scored_candidates.scored(rows, signal=signal, seed=seed)


def test_models_are_compared_as_in_a_run(invoke, models: list[object], tmp_path: Path) -> None:
    done = invoke("evaluate", *models, "--json", "--out", tmp_path / "out.json")
    found = json.loads(done.stdout)
    tables = {name: scored(signal, seed) for seed, (name, signal) in enumerate(SIGNALS.items())}
    expected = evaluate_scores(tables, main="mine", n_resamples=200)
    assert found["metrics"] == expected.summary
    assert found["comparisons"] == expected.details["comparisons"]
    assert json.loads((tmp_path / "out.json").read_text()) == found
    family = {
        (record["first"], record["second"])
        for record in found["comparisons"]
        if record["p_main"] is not None
    }
    assert family == {("mine", "theirs"), ("mine", "noise")}


@pytest.mark.parametrize(("options", "main"), [((), "mine"), (("--main", "noise"), "noise")])
def test_differences_to_the_named_or_first_model_are_printed(
    invoke, models: list[object], options: tuple[str, ...], main: str
) -> None:
    records = json.loads(invoke("evaluate", *models, *options, "--json").stdout)["comparisons"]
    lines = invoke("evaluate", *models, *options).stdout.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(f"{main} minus"))
    rows = [line.split() for line in lines[start + 1 : start + 5]]
    others = {*SIGNALS} - {main}
    kinds = {"uniform", "popularity"}
    assert {(row[0], row[1]) for row in rows} == {(name, kind) for name in others for kind in kinds}
    for other, kind, difference, low, high, p, p_all in rows:
        [record] = [
            record
            for record in records
            if (record["negatives"], record["metric"]) == (kind, "auc")
            and {record["first"], record["second"]} == {main, other}
        ]
        sign = 1 if record["first"] == main else -1
        ends = sorted((sign * record["low"], sign * record["high"]))
        assert [difference, low, high] == [
            f"{value:+.3f}" for value in (sign * record["difference"], *ends)
        ]
        assert [p, p_all] == [f"{record['p_main']:.4f}", f"{record['p_holm']:.4f}"]
    assert any(line.startswith("p: corrected for the comparisons of this table") for line in lines)
    assert max(len(line) for line in lines) <= 80


def test_two_models_also_have_a_table_of_differences(invoke, models: list[object]) -> None:
    assert "mine minus" in invoke("evaluate", *models[:-2]).stdout


def test_a_model_to_compare_needs_a_score_file(fail, models: list[object]) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown model 'nois'\. Did you mean 'noise'"):
        fail("evaluate", *models, "--main", "nois")
    with pytest.raises(UsageError, match="--main mine names a score file, but there is none"):
        fail("evaluate", "--main", "mine")


def test_names_of_folders_are_not_read_as_seeds(invoke, candidates: Path, tmp_path: Path) -> None:
    files = [
        write_scores(tmp_path / "A@1/scores.csv", 1.0),
        write_scores(tmp_path / "A@2/scores.csv", 0.0),
    ]
    options = [option for file in files for option in ("--scores", file)]
    found = json.loads(invoke("evaluate", "--candidates", candidates, *options, "--json").stdout)
    assert [*found["metrics"]] == ["A_1/scores", "A_2/scores"]
