"""vLLM's server on this machine's processor, in an environment of its own.

vLLM pins its own versions of what this package needs too, so that both cannot live in one
environment: `make vllm` makes `build/vllm/` out of `vllm-requirements.txt` and runs this file,
which does what that build needs besides (`mend`). The server stands behind the backend `openai`,
as anybody's would.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from benchmarks._loopback import free_address, running
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.errors import UsageError

ENVIRONMENT: Final = Path(__file__).parents[1] / "build" / "vllm"
READY: Final = ENVIRONMENT / "ready"
MODEL: Final = "served"

_PATIENCE: Final = 300.0
_RANK: Final = 16
_KEY_VARIABLE: Final = "MLLM_MSR_BENCHMARK_HAS_NO_KEY"
# torchvision's compiled half, which cannot be loaded beside PyTorch's build for CPUs, would define
# these; its Python half gives them meanings at its import, and nothing here calls them.
_OPERATORS: Final = '''\
"""Defines two operators without which torchvision cannot be imported."""

import sys
from importlib.abc import MetaPathFinder

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import Library

            self.library = Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                self.library.define(name + _SIGNATURE)
        return None


_finder = _BeforeTorchvision()  # keeps the library alive
sys.meta_path.insert(0, _finder)
'''


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        root: Its address without a version.
    """

    root: str

    def backend(self, *, clients: int, adapter: Path | str | None = None) -> OpenAIBackend:
        """The backend `openai` before it.

        Args:
            clients: Most requests under way.
            adapter: Folder of an adapter, or a name under which one is served.
        """
        return OpenAIBackend(
            MODEL,
            url=f"{self.root}/v1",
            key_variable=_KEY_VARIABLE,
            adapter=adapter,
            scoring="token_ids",
            concurrency=clients,
        )

    def forget(self) -> None:
        """Let it forget what it has read: prefixes, and what it has made of images."""
        for cache in ("prefix", "mm", "encoder"):
            url = f"{self.root}/reset_{cache}_cache"
            httpx2.post(url, trust_env=False, timeout=60).raise_for_status()


@contextmanager
def serving(
    checkpoint: Path,
    *,
    threads: int,
    dtype: str = "float32",
    clients: int = 64,
    adapters: Mapping[str, Path] | None = None,
) -> Iterator[Server]:
    """Serve a checkpoint with prefix caching for the time of a block.

    Args:
        checkpoint: Folder in a form that it reads: see `_vllm_checkpoint.readable`.
        threads: Threads that compute.
        dtype: Precision of the weights.
        clients: Most prompts that it computes together.
        adapters: Folders of adapters by the names under which they are served; others can be
            loaded later.

    Raises:
        UsageError: The environment is not there.
        BackendError: The server does not start.
    """
    if not READY.is_file():
        raise UsageError(
            needed=f"vLLM in {ENVIRONMENT}",
            received="nothing there",
            remedy="run: make vllm",
        )
    address = free_address()
    host, _, port = address.partition(":")
    modules = [f"{name}={folder}" for name, folder in (adapters or {}).items()]
    options: dict[str, str | int] = {
        "--served-model-name": MODEL,
        "--host": host,
        "--port": port,
        "--dtype": dtype,
        "--max-num-seqs": clients,
        "--max-lora-rank": _RANK,
        "--generation-config": "vllm",
        # Images are made smaller by Pillow, as here; torchvision makes other pixels of them.
        "--mm-processor-kwargs": '{"backend": "pil"}',
    }
    command: list[str | Path] = [
        ENVIRONMENT / "bin" / "vllm",
        "serve",
        checkpoint,
        *(str(word) for option in options.items() for word in option),
        "--enforce-eager",
        "--enable-prefix-caching",
        "--enable-lora",
        *(["--lora-modules", *modules] if modules else []),
    ]
    with running(
        command,
        _variables(threads),
        name="vLLM's server",
        health=f"http://{address}/health",
        early_stopping_patience=_PATIENCE,
    ):
        yield Server(f"http://{address}")


def _variables(threads: int) -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # for the routes that `Server.forget` calls
        "VLLM_NO_USAGE_STATS": "1",
    }


def mend(environment: Path) -> None:
    """Make a fresh environment's packages work together.

    Args:
        environment: Where `vllm-requirements.txt` was installed.
    """
    (packages,) = environment.glob("lib/python3.*/site-packages")
    (packages / "torchvision_operators.py").write_text(_OPERATORS, encoding="utf-8")
    (packages / "torchvision_operators.pth").write_text("import torchvision_operators\n")
    # vLLM looks itself up under its own name, which the package of its build for CPUs has not.
    (described,) = packages.glob("vllm_cpu-*.dist-info")
    version = described.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    own = packages / f"vllm-{version}.dist-info"
    own.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (own / "METADATA").write_text(metadata, encoding="utf-8")


if __name__ == "__main__":
    mend(Path(sys.argv[1]))
