import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_small_run_gives_every_figure_as_json() -> None:
    sizes = ("--users", "50", "--items", "40", "--history", "3", "--repeats", "1")
    command = [sys.executable, "-m", "benchmarks", "ranking", "--json", *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["users"], result["items"]) == (50, 40)
    assert 0 <= result["seconds_of_scoring"] <= result["seconds"]
    assert 0 < result["peak_gb"] < 6
