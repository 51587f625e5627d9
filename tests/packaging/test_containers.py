"""Dockerfile, compose files and workflows: what they name exists, and keys are not optional.

No image is built here; CI builds it.
"""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from mllm_msr.cli import app
from mllm_msr.config.loading import load_settings
from mllm_msr.serving.security import _PUBLIC_PATHS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def read_yaml(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


COMPOSE = read_yaml(ROOT / "compose.yaml")


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    assert copied
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in kept)
    # The package needs these to be built.
    assert {"README.md", *PROJECT["license-files"], "pyproject.toml", "src"} <= {*kept}


def test_the_image_installs_extras_that_exist_and_runs_the_command() -> None:
    lists = re.findall(r"default=([\w,]+)", DOCKERFILE)
    assert len(lists) == 2
    for extras in lists:
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert 'ENTRYPOINT ["mllm-msr"]' in DOCKERFILE
    assert "mllm-msr" in PROJECT["scripts"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(r"^torch==", constraints, re.MULTILINE)


def test_the_image_does_not_run_as_root() -> None:
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert user == "1000:1000"


def test_build_arguments_of_the_compose_files_exist() -> None:
    declared = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for name in ("compose.yaml", "compose.cuda.yaml"):
        build = read_yaml(ROOT / name)["services"]["service"]["build"]
        assert set(build["args"]) <= declared


def test_the_composed_service_can_be_started() -> None:
    service = COMPOSE["services"]["service"]
    command, *arguments = service["command"]
    parsed = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    options = parsed.make_context(command, arguments).params
    assert options["run"] == Path("/runs/served")
    assert options["host"] == "0.0.0.0"
    assert f"{options['run']}" in "".join(service["volumes"])
    assert f":{options['port']}" in service["ports"][0]


def test_the_composed_service_uses_the_database_and_requires_keys() -> None:
    environment = COMPOSE["services"]["service"]["environment"]
    database = COMPOSE["services"]["database"]
    assert environment["MLLM_MSR_API_KEYS"].startswith("${MLLM_MSR_API_KEYS:?")
    assert database["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    url = environment["MLLM_MSR__SERVE__STATE"].replace("${POSTGRES_PASSWORD}", "secret")
    settings = load_settings("default", environment={"MLLM_MSR__SERVE__STATE": url})
    user, name = (database["environment"][f"POSTGRES_{key}"] for key in ("USER", "DB"))
    assert settings.serve.state == f"postgresql+psycopg://{user}:secret@database/{name}"


def test_the_health_check_needs_no_key() -> None:
    test = COMPOSE["services"]["service"]["healthcheck"]["test"][-1]
    (path,) = re.findall(r"127\.0\.0\.1:8000(/\w+)", test)
    assert path in _PUBLIC_PATHS
    compile(test, "healthcheck", "exec")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_targets_that_exist_and_need_no_secrets(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for job in read_yaml(path)["jobs"].values():
        assert job["timeout-minutes"]
        for step in job["steps"]:
            for target in re.findall(r"^make ([\w-]+)", step.get("run", ""), re.MULTILINE):
                assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_supported_versions_of_python_are_tested() -> None:
    classifiers = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"]]
    supported = [version for version in classifiers if re.fullmatch(r"3\.\d+", version)]
    jobs = read_yaml(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    for name in ("test", "package"):
        assert jobs[name]["strategy"]["matrix"]["python"] == supported


def test_only_the_publishing_job_of_a_release_gets_a_token_of_pypi() -> None:
    release = read_yaml(ROOT / ".github" / "workflows" / "release.yml")
    assert release["permissions"] == {}
    permissions = {name: job["permissions"] for name, job in release["jobs"].items()}
    assert permissions == {"build": {"contents": "read"}, "publish": {"id-token": "write"}}
