"""A run's LoRA adapter as a folder for a model hub: weights, settings and a model card.

`export_adapter` writes the folder, `push_adapter` uploads it, and `load_adapter` returns the
settings with which another run uses it. Nothing in the folder contains users, titles or paths of
this machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import huggingface_hub
import yaml
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from mllm_msr import __version__
from mllm_msr.config.run_settings import load_finished_settings
from mllm_msr.config.settings import Settings
from mllm_msr.config.yaml_source import parse_yaml
from mllm_msr.errors import DamagedFileError, DataError, UsageError
from mllm_msr.evaluation.report.caveats import caveats
from mllm_msr.evaluation.report.rendering import environment
from mllm_msr.evaluation.report.tables import POPULARITY, main_model, result_tables
from mllm_msr.pipeline.alignment import aligned
from mllm_msr.pipeline.context import RunContext
from mllm_msr.pipeline.recommenders import Recommenders, label_of
from mllm_msr.prompts.item_types import ItemType
from mllm_msr.ranker.collaborative import remove_texts
from mllm_msr.ranker.examples import build_prompt, template_name
from mllm_msr.ranker.user_inputs import UserInput
from mllm_msr.storage import layout
from mllm_msr.storage.atomic import write_text
from mllm_msr.storage.run_folder import RunFolder
from mllm_msr.types import ImagePart, Item

SETTINGS: Final = "settings.yaml"
CARD: Final = "README.md"
_WEIGHTS: Final = "adapter_model.safetensors"
_CONFIG: Final = "adapter_config.json"
_PROJECTOR: Final = "projector.safetensors"
_TEMPLATES: Final = "templates"
# Arguments of backends that are files of this machine, or say where prompts and keys are sent.
_LOCAL: Final = ("adapter", "projector", "weights", "url", "key_variable")
# What the settings of an export may contain, because they come from other people.
_SECTIONS: Final = frozenset(
    {"item_type", "images", "prompts", "model", "summarize", "infer", "recommend", "train"}
)
_KEYS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "images": frozenset({"per_item"}),
        "prompts": frozenset({"language", "style"}),
        "train": frozenset({"enabled", "max_text_tokens"}),
    }
)


@dataclass(frozen=True, slots=True)
class AdapterExport:
    """An exported adapter.

    Attributes:
        folder: The folder.
        base_model: Id of the base model on the hub, or the fingerprint of a local one.
        files: Names of the files in the folder.
    """

    folder: Path
    base_model: str
    files: tuple[str, ...]


def export_adapter(run: Path, folder: Path, *, fold: int | None = None) -> AdapterExport:
    """Write the adapter of a run, its settings and a model card.

    Args:
        run: A run that was fine-tuned with LoRA. The card has the results if it was evaluated.
        folder: Folder to write; new or empty.
        fold: Fold of the adapter; None for the first one.

    Raises:
        UsageError: The run has no adapter or not the fold, or the folder is not empty.
        RunFolderError: The stage `train` is not finished.
        DamagedFileError: The adapter is not what the training has written.
    """
    settings = load_finished_settings(run)
    if not settings.train.enabled or settings.train.weight_format != "lora":
        raise UsageError(
            f"The run {run} has no LoRA adapter, because train.enabled is "
            f"{str(settings.train.enabled).lower()} and train.method is {settings.train.method}. "
            "Choose a run with train.method=lora."
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"The folder {folder} is not empty. Choose a new one.")
    opened = RunFolder.open(run, read_only=True)
    recommenders = Recommenders(RunContext(opened), settings)
    fold = recommenders.tables.fold(fold)
    weights = opened.verified(recommenders.weights(fold))
    base_model = _hub_id(settings) or str(opened.stages[f"train/{fold}"]["model"])
    shutil.copytree(weights, folder, dirs_exist_ok=True)
    projector = aligned(settings, opened).plugin_kwargs().get("projector")
    if projector is not None:
        shutil.copyfile(projector, folder / _PROJECTOR)
    if settings.prompts.folder is not None:
        shutil.copytree(settings.prompts.folder, folder / _TEMPLATES)
    _remove_path(folder / _CONFIG, _hub_id(settings))
    remove_texts(folder)
    shared = shared_settings(settings, str(recommenders.item_type))
    write_text(folder / SETTINGS, yaml.safe_dump(shared, sort_keys=False, allow_unicode=True))
    card = _card(opened, settings, recommenders, fold=fold, base_model=base_model, folder=folder)
    write_text(folder / CARD, card + "\n")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = tuple(path.relative_to(folder).as_posix() for path in files)
    return AdapterExport(folder, base_model, names)


def load_adapter(source: str | Path) -> dict[str, Any]:
    """Return the settings with which a run uses an exported adapter.

    Args:
        source: A folder that `export_adapter` wrote, or the id of a repository on the hub, which is
            downloaded.

    Returns:
        Settings by dotted key, for `Pipeline.open`, `load_settings` or the overrides of a run.
        `model` is the model with the adapter; summaries and preferences are written without it.

    Raises:
        DamagedFileError: The folder is not an exported adapter.
        DataError: There is neither a folder nor a repository.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source))
    missing = [name for name in (_WEIGHTS, _CONFIG, SETTINGS) if not (folder / name).is_file()]
    if missing:
        raise DamagedFileError(
            f"{source} is not an exported adapter: {', '.join(missing)} is missing. Use a folder "
            "that `mllm-msr export` wrote."
        )
    try:
        settings = parse_yaml((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as cause:
        raise DamagedFileError(f"{folder / SETTINGS} cannot be read ({cause}).") from cause
    _require_harmless(settings, folder)
    found: dict[str, Any] = {**settings, "model.adapter": str(folder.absolute())}
    if (folder / _PROJECTOR).is_file():
        found["model.projector"] = str(folder.absolute() / _PROJECTOR)
        for name in ("summarize", "infer"):
            if settings.get(name, {}).get("model") == settings["model"]:
                found[f"{name}.model.projector"] = found["model.projector"]
    if (folder / _TEMPLATES).is_dir():
        found["prompts.folder"] = str(folder.absolute() / _TEMPLATES)
    return found


def push_adapter(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload an exported adapter to a model hub.

    The token is that of the environment (`HF_TOKEN`), and the hub that of `HF_ENDPOINT`.

    Args:
        folder: A folder that `export_adapter` wrote.
        repository: "owner/name"; created if it does not exist.
        private: Whether a new repository is private.

    Returns:
        The URL of the commit.

    Raises:
        UsageError: There is no token, or the hub is offline (`HF_HUB_OFFLINE`).
        DataError: The hub rejects the upload.
    """
    token = huggingface_hub.get_token()
    if not token:
        raise UsageError(
            "There is no token for the hub. Set HF_TOKEN to a token with write access, or log in "
            "with `hf auth login`."
        )
    api = huggingface_hub.HfApi(token=token, library_name="mllm-msr", library_version=__version__)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload the adapter"
        )
    except OfflineModeIsEnabled as error:
        raise UsageError("HF_HUB_OFFLINE is set. Unset it to upload to the hub.") from error
    except (HfHubHTTPError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"The hub did not accept {repository}: {reason}") from error
    return str(commit)


def shared_settings(settings: Settings, item_type: str) -> dict[str, Any]:
    """Return the settings that a user of the adapter needs, without paths and addresses.

    Args:
        settings: The settings of the run.
        item_type: Word for an item in the prompts.
    """
    values = settings.model_dump(mode="json", exclude_defaults=True)
    base = _without_local(settings.model.model_dump(mode="json", exclude_none=True))
    shared: dict[str, Any] = {"item_type": item_type, "model": base}
    for name in ("summarize", "infer"):
        section = {key: value for key, value in values.get(name, {}).items() if key != "model"}
        own = getattr(settings, name).model
        # Without the adapter, which answers nothing but yes and no.
        model = base if own is None else own.model_dump(mode="json", exclude_none=True)
        shared[name] = {**section, "model": _without_local(model)}
    prompts = {key: value for key, value in values.get("prompts", {}).items() if key != "folder"}
    budget = settings.train.max_text_tokens
    return {
        **shared,
        **({"prompts": prompts} if prompts else {}),
        **({"recommend": values["recommend"]} if "recommend" in values else {}),
        **({"images": {"per_item": settings.images.per_item}} if "images" in values else {}),
        "train": {"enabled": False, "max_text_tokens": budget},
    }


def _without_local(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model without local files and addresses."""
    known = {key: value for key, value in model.items() if key not in _LOCAL}
    if _is_local(known.get("checkpoint")):
        del known["checkpoint"]
    return known


def _is_local(checkpoint: object) -> bool:
    return checkpoint is not None and Path(str(checkpoint)).expanduser().exists()


def _hub_id(settings: Settings) -> str | None:
    """Return the id of the base model on the hub; None if it is local."""
    checkpoint = settings.model.plugin_kwargs().get("checkpoint")
    return None if checkpoint is None or _is_local(checkpoint) else str(checkpoint)


def _remove_path(file: Path, base_model: str | None) -> None:
    """Replace the path of the base model in the configuration of an adapter by its id."""
    values = json.loads(file.read_text(encoding="utf-8"))
    values["base_model_name_or_path"] = base_model
    write_text(file, json.dumps(values, indent=2, sort_keys=True) + "\n")


def _require_harmless(settings: object, folder: Path) -> None:
    """Check that the settings of another person select no files, addresses or keys.

    Raises:
        DamagedFileError: They do.
    """
    if not isinstance(settings, dict) or not set(settings) <= _SECTIONS:
        raise DamagedFileError(f"{folder / SETTINGS} has other sections than an export has.")
    for name, section in settings.items():
        values = section if isinstance(section, dict) else {}
        found = set(values) - _KEYS.get(name, frozenset(values))
        for model in (values, values.get("model")):
            found |= set(_LOCAL).intersection(model or ())
        if found:
            raise DamagedFileError(
                f"{folder / SETTINGS} sets {min(found)!r} in {name}, which an export does not. "
                "Remove it, and give it in your own settings if you need it."
            )


def _download(repository: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(repository))
    except (RepositoryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ValueError) as error:
        raise DataError(
            f"There is neither a folder nor a repository on the hub {repository!r} ({error})."
        ) from error


def _card(
    run: RunFolder,
    settings: Settings,
    recommenders: Recommenders,
    *,
    fold: int,
    base_model: str,
    folder: Path,
) -> str:
    """Return the model card, from the results and the manifest of the run."""
    metrics: dict[str, Any] = {}
    details: dict[str, Any] = {}
    if run.has(layout.METRICS):
        metrics, details = run.read_json(layout.METRICS), run.read_json(layout.DETAILS)
    stages, labels = dict(run.stages), {name: label_of(name) for name in [*metrics, POPULARITY]}
    tables = result_tables(metrics, chance=details.get("chance", {}), main=main_model(metrics))
    config = settings.model_dump(mode="json")
    return (
        environment(labels)
        .get_template("model_card.md.jinja")
        .render(
            dataset=settings.dataset,
            item_type=str(recommenders.item_type),
            counts=stages["prepare"]["counts"],
            config=config,
            fold=fold,
            n_folds=len(recommenders.tables.folds()),
            training=stages[f"train/{fold}"],
            hub_id=_hub_id(settings),
            base_model=base_model,
            writers={one: stages[one]["model"] for one in ("summarize", "infer") if one in stages},
            tables=tables,
            caveats=caveats(config, tables=tables, details=details, manifest=stages, labels=labels)
            if metrics
            else [],
            prompt=_example_prompt(settings, recommenders.item_type),
            prompt_name=template_name(settings.recommend),
            has_projector=(folder / _PROJECTOR).is_file(),
            has_templates=(folder / _TEMPLATES).is_dir(),
            has_vectors=settings.recommend.reads_vectors,
            version=__version__,
        )
    )


def _example_prompt(settings: Settings, item_type: ItemType) -> str:
    """Return the ranker's prompt with placeholders."""
    reads = settings.recommend
    prompt = build_prompt(
        UserInput(
            "PREFERENCE" if reads.reads_preference else None,
            ("TITLE OF THE LATEST ITEM", "...") if reads.reads_history else None,
        ),
        Item("", "TITLE", image=Path("image")),
        item_type=item_type,
        order=reads.order,
        text=None if reads.item_text == "none" else reads.item_text.upper(),
        use_images=reads.use_images,
    )
    shown = (
        "[image]" if isinstance(part, ImagePart) else getattr(part, "text", "")
        for part in prompt.parts
    )
    return "".join(shown).strip()
