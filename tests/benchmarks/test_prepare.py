"""The benchmark `prepare` and the command `python -m benchmarks`."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_small_run_prints_its_result_as_json() -> None:
    sizes = ("--interactions", "3000", "--users", "150", "--items", "60")
    done = benchmark("prepare", "--json", *sizes, "--growth", "0", "--form", "csv")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["counts"]["raw_interactions"] == 3000
    assert result["candidate_rows"] > 0
    assert 0 < result["seconds"]["draw"] <= result["seconds"]["all"]
    assert 0 < result["peak_gb"] < 6
    assert list(result["seconds_per_million"]) == ["3000"]


def test_the_error_about_an_unknown_benchmark_lists_all_benchmarks() -> None:
    done = benchmark("speed")
    assert done.returncode == 2
    assert "prepare" in done.stderr


def test_help_with_a_name_shows_the_options_of_the_benchmark() -> None:
    assert "--interactions" in benchmark("prepare", "--help").stdout
