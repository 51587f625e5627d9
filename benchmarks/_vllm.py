"""vLLM's server on the CPU, in a separate environment.

vLLM pins versions that conflict with those of this package. `make vllm` therefore creates the
environment `build/vllm/` from `vllm-requirements.txt` and runs this module to patch it
(`patch_environment`). The server is called through the backend `openai`, like any endpoint.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from benchmarks._server_process import free_address, run_server
from mllm_msr.backends.openai import OpenAIBackend
from mllm_msr.errors import UsageError

ENVIRONMENT: Final = Path(__file__).parents[1] / "build" / "vllm"
READY: Final = ENVIRONMENT / "ready"
MODEL: Final = "served"

_STARTUP_SECONDS: Final = 300.0
_MAX_LORA_RANK: Final = 16
_PROGRAM_VARIABLE: Final = "MLLM_MSR_VLLM"
_CPU_ARGUMENTS: Final = ("--enforce-eager",)
# Our model is in the memory of the same GPU.
_GPU_ARGUMENTS: Final = ("--gpu-memory-utilization", "0.4")
_KEY_VARIABLE: Final = "MLLM_MSR_BENCHMARK_HAS_NO_KEY"
# torchvision's compiled extension defines these operators, but does not load with PyTorch's CPU
# build. Its Python code registers implementations of them on import; the benchmarks do not use
# them.
_OPERATORS: Final = '''\
"""Define two operators without which torchvision cannot be imported."""

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


_finder = _BeforeTorchvision()  # holds a reference to the library
sys.meta_path.insert(0, _finder)
'''


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        root: URL without the API version.
    """

    root: str

    def backend(self, *, clients: int, adapter: Path | str | None = None) -> OpenAIBackend:
        """Return a backend that calls this server.

        Args:
            clients: Maximum number of concurrent requests.
            adapter: Folder of an adapter, or the name of an adapter that the server has loaded.
        """
        return OpenAIBackend(
            MODEL,
            url=f"{self.root}/v1",
            key_variable=_KEY_VARIABLE,
            adapter=adapter,
            scoring="token_ids",
            concurrency=clients,
        )

    def reset_caches(self) -> None:
        """Clear the server's caches of prefixes, preprocessed images and image features."""
        for cache in ("prefix", "mm", "encoder"):
            url = f"{self.root}/reset_{cache}_cache"
            httpx2.post(url, trust_env=False, timeout=60).raise_for_status()


@contextmanager
def serve(
    checkpoint: Path,
    *,
    threads: int,
    dtype: str = "float32",
    device: str = "cpu",
    clients: int = 64,
    adapters: Mapping[str, Path] | None = None,
) -> Iterator[Server]:
    """Serve a checkpoint with prefix caching for the duration of a `with` block.

    Args:
        checkpoint: Folder in a format that vLLM supports; see
            `_vllm_checkpoint.convert_checkpoint`.
        threads: Number of compute threads.
        dtype: Data type of the weights.
        device: "cpu", or a GPU, for which vLLM is found by `MLLM_MSR_VLLM` or on the PATH.
        clients: Maximum number of prompts in a batch.
        adapters: Folders of adapters by their names; others can be loaded later.

    Raises:
        UsageError: vLLM is not installed for the device.
        BackendError: The server does not start.
    """
    program = find_program(device)
    address = free_address()
    variables = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # for the routes that `Server.reset_caches` calls
        "VLLM_NO_USAGE_STATS": "1",
    }
    with run_server(
        [
            program,
            *_arguments(checkpoint, address, dtype=dtype, clients=clients, adapters=adapters or {}),
            *(_CPU_ARGUMENTS if device == "cpu" else _GPU_ARGUMENTS),
        ],
        variables,
        name="vLLM's server",
        health_url=f"http://{address}/health",
        startup_timeout=_STARTUP_SECONDS,
    ):
        yield Server(f"http://{address}")


def find_program(device: str) -> Path:
    """Return vLLM's program for a device.

    Args:
        device: "cpu", or a GPU, for which `MLLM_MSR_VLLM` or the PATH names the program.

    Raises:
        UsageError: vLLM is not installed for the device.
    """
    if device == "cpu":
        if not READY.is_file():
            raise UsageError(f"vLLM is not installed in {ENVIRONMENT}. Run: make vllm")
        return ENVIRONMENT / "bin" / "vllm"
    found = os.environ.get(_PROGRAM_VARIABLE) or shutil.which("vllm")
    if not found or not Path(found).is_file():
        raise UsageError(
            f"vLLM for GPUs is not installed{f' as {found}' if found else ''}. Install it in an "
            f"environment of its own and set {_PROGRAM_VARIABLE} to its program, such as "
            "/opt/vllm/bin/vllm."
        )
    return Path(found)


def _arguments(
    checkpoint: Path, address: str, *, dtype: str, clients: int, adapters: Mapping[str, Path]
) -> list[str | Path]:
    host, _, port = address.partition(":")
    options: dict[str, str | int] = {
        "--served-model-name": MODEL,
        "--host": host,
        "--port": port,
        "--dtype": dtype,
        "--max-num-seqs": clients,
        "--max-lora-rank": _MAX_LORA_RANK,
        "--generation-config": "vllm",
    }
    # Resize images with Pillow, like this package; torchvision gives different pixels. Processors
    # of videos reject the option.
    if not (checkpoint / "video_preprocessor_config.json").is_file():
        options["--mm-processor-kwargs"] = '{"backend": "pil"}'
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    return [
        "serve",
        checkpoint,
        *(str(word) for option in options.items() for word in option),
        "--enable-prefix-caching",
        "--enable-lora",
        *(["--lora-modules", *modules] if modules else []),
    ]


def patch_environment(environment: Path) -> None:
    """Patch an environment so that vLLM finds its version and torchvision can be imported.

    Args:
        environment: New environment in which `vllm-requirements.txt` is installed.
    """
    (packages,) = environment.glob("lib/python3.*/site-packages")
    (packages / "torchvision_operators.py").write_text(_OPERATORS, encoding="utf-8")
    (packages / "torchvision_operators.pth").write_text("import torchvision_operators\n")
    # vLLM looks up its version under the name "vllm", but its CPU build is named "vllm-cpu".
    (metadata_folder,) = packages.glob("vllm_cpu-*.dist-info")
    version = metadata_folder.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    alias = packages / f"vllm-{version}.dist-info"
    alias.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (alias / "METADATA").write_text(metadata, encoding="utf-8")


if __name__ == "__main__":
    patch_environment(Path(sys.argv[1]))
