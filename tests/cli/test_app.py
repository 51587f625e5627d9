"""The application: output streams, errors, exit codes, lazy imports and SIGTERM."""

from __future__ import annotations

import json
import pkgutil
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main

import worlds
from mllm_msr import __version__, cli
from mllm_msr.cli._app import GROUPS
from mllm_msr.errors import RunFolderError, UsageError


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mllm_msr", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_every_module_registers_the_command_of_its_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(cli.__path__)}
    commands = set(typer.main.get_command(cli.app).commands)
    assert commands == {name.replace("_", "-") for name in modules if not name.startswith("_")}


def test_a_run_prints_its_results_to_stdout_and_what_it_read_to_stderr(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    done = call("run", *worlds.settings(data), "--run", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["metrics"]) == {"zero_shot", "popularity"}
    assert "interactions.csv" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "train.rank=0"], 2, "train.rank=0: must be greater than 0."),
        (["run", "--preset", "defualt"], 2, "Did you mean 'default'?"),
        (["evaluate", "--candidates", "x.parquet", "--scores", "y.parquet"], 1, "x.parquet"),
        (["prepare", "dataset=files", "data.path=nowhere"], 1, "nowhere"),
        (["summarize", "--run", "empty"], 1, "There is no run folder at empty."),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_errors_print_a_message_and_set_the_exit_code(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_run_without_a_terminal_logs_its_stages(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data")
    done = call("run", *worlds.settings(data), "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if re.match(r"\d\d:\d\d:\d\d ", line)]
    messages = [line.split(" ", 1)[1] for line in lines]
    for stage in ("prepare", "summarize", "infer", "score/popularity", "evaluate", "report"):
        assert f"{stage} started" in messages
        assert any(message.startswith(f"{stage} done in ") for message in messages)
    # Nothing else is printed: no bars or warnings of other packages.
    rest = set(done.stderr.splitlines()) - set(lines)
    assert not [line for line in rest if "Loading" in line or "Warning" in line or "it/s" in line]
    log = (tmp_path / "run" / "run.log").read_text().splitlines()
    assert " run dataset=files " in log[0]
    assert [line.split(" ", 3)[3] for line in log if " started" in line] == [
        message for message in messages if message.endswith(" started")
    ]


def test_without_arguments_the_commands_are_listed_by_group(tmp_path: Path) -> None:
    done = call(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line[:-1] for line in lines if line.endswith(":")] == ["Options", *GROUPS]
    listed = [line.split()[0] for line in lines[lines.index("Start:") :] if line.startswith("  ")]
    assert listed == [name for names in GROUPS.values() for name in names]


def test_every_command_has_a_group_and_a_short_summary() -> None:
    commands = typer.main.get_command(cli.app).commands
    assert sorted(commands) == sorted(name for names in GROUPS.values() for name in names)
    assert {name: c.short_help for name, c in commands.items() if len(c.short_help) > 50} == {}


@pytest.mark.parametrize("name", sorted(name for names in GROUPS.values() for name in names))
def test_every_command_can_be_quiet_and_verbose(invoke, name: str) -> None:
    text = invoke(name, "--help").stdout
    assert "-v, --verbose" in text
    assert "-q, --quiet" in text
    assert not re.search(r"<(str|list|Path|int)", text)  # Python types mean little to users


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_is_printed(invoke, option: str) -> None:
    assert invoke(option).stdout == f"mllm-msr {__version__}\n"


def test_quiet_and_verbose_exclude_each_other(fail) -> None:
    with pytest.raises(UsageError, match="at most one"):
        fail("list", "-q", "-v")


def test_torchrun_can_only_start_distributed_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "none"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    done = call("experiment", "figure4", cwd=tmp_path)
    assert done.returncode == 2
    assert "The command 'experiment' does not support torchrun" in done.stderr
    assert "only train and run can be started with it" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_help_imports_no_heavy_packages() -> None:
    code = (
        "import sys\n"
        "from mllm_msr.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'polars', 'pydantic')))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        *([name] for name in ("summarize", "infer", "train", "score", "evaluate", "report")),
        ["run"],
        ["run", "train.seed=1"],
        ["prepare", "train.seed=1"],
        ["plan"],
        ["compare", "--models", "popularity"],
        ["tune", "--models", "item_knn", "--trials", "1"],
        ["experiment", "figure4"],
        ["recommend", "--user", "user1"],
        ["update", "new.csv"],
        ["serve"],
        ["status"],
    ],
)
def test_a_mistyped_run_folder_is_never_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere1").mkdir()
    (tmp_path / "nowhere1" / "manifest.json").write_text("{}")
    (tmp_path / "new.csv").write_text("user_id,item_id,timestamp\n")
    done = invoke(*arguments, "--run", "nowhere")
    assert isinstance(done.exception, RunFolderError), done.output
    assert str(done.exception).startswith(
        "There is no run folder at nowhere. Did you mean nowhere1?"
    )
    assert not (tmp_path / "nowhere").exists()
    assert [path.name for path in (tmp_path / "nowhere1").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_how_to_resume(tmp_path: Path, signum: signal.Signals) -> None:
    data = worlds.write_files(tmp_path / "my data", n_users=200, n_items=60)
    arguments = ["run", *worlds.settings(data), "--run", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mllm_msr", *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200  # on a busy machine, the start alone takes a minute
    while not (tmp_path / "run" / "candidates.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "run" / "candidates.parquet").exists()
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    *_, text, command = errors.splitlines()
    assert text == f"mllm-msr: Interrupted by {signum.name}. Finished work is kept. Resume with:"
    assert "Traceback" not in errors
    assert shlex.split(command) == ["mllm-msr", *arguments]


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("RLIMIT_NOFILE", 12, "Too many open files. Raise the limit with 'ulimit -n 4096'"),
        ("RLIMIT_FSIZE", 1500, "File too large."),
    ],
)
def test_limits_of_the_system_are_one_clear_error(
    tmp_path: Path, limit: str, value: int, message: str
) -> None:
    data = worlds.write_files(tmp_path / "data")
    script = (
        "import resource, sys\n"
        "import mllm_msr.cli, mllm_msr.pipeline.pipeline, mllm_msr.backends.mock\n"
        f"resource.setrlimit(resource.{limit}, ({value}, {value}))\n"
        "mllm_msr.cli.main()\n"
    )
    command = [sys.executable, "-c", script, "run", *worlds.settings(data), "--run", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob("*.mllm-msr-tmp"))
    # Nothing that was finished is lost, and nothing unfinished counts.
    done = call("run", *worlds.settings(data), "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_full_output_is_one_clear_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mllm_msr", "list", "baselines"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("mllm-msr: No space left on device.")
    assert "Traceback" not in done.stderr


def test_a_terminated_run_can_be_resumed(tmp_path: Path) -> None:
    data = worlds.write_files(tmp_path / "data", n_users=200, n_items=60)
    command = [sys.executable, "-m", "mllm_msr", "run", *worlds.settings(data), "--run", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 200  # on a busy machine, the start alone takes a minute
    while not (tmp_path / "run" / "candidates.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    done = call("run", *worlds.settings(data), "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.endswith(".tmp")]
    assert (tmp_path / "run" / "report.html").exists()
