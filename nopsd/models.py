"""Where a model's files are and what they are: folder, GGUF file, hub id or the embedded lab model; hash; window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nopsd.config import ModelConfig
from nopsd.errors import UserError
from nopsd.files import sha256_files
from nopsd.gguf_folder import is_gguf, made_folder
from nopsd.model_files import check_files, window_of

GENERATION = "generation_config.json"  # vLLM's defaults of what a request doesn't say
TOKENIZER = (  # with chat templates, and code that only model.trust_remote_code runs
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("*.tiktoken", "chat_template*", "*.jinja", "additional_chat_templates/*", "*.py"),
)
LAB_MODEL = Path(__file__).parent / "lab" / "model"


@dataclass(frozen=True)
class ModelFiles:
    """A model folder on this host, the hash of its weights and config, its window in tokens, and by what else in it
    results are shaped: hashes of the tokenizer (chat template and code included) and of the generation defaults."""

    path: Path
    hash: str
    window: int
    tokenizer: str = ""
    generation: str = ""


def resolve_model(config: ModelConfig) -> ModelFiles:
    """Find (or fetch) the model. Raises UserError naming what is missing."""
    path = _folder(config)
    if not (path / "config.json").is_file():
        raise UserError(f"model.path={config.path}: {path} has no config.json: it is not a Hugging Face model folder")
    if not any(path.glob("*.safetensors")):
        raise UserError(f"model.path={config.path}: no *.safetensors in {path}; nopsd loads no pickled weights")
    check_files(path)
    texts = sorted({file for pattern in TOKENIZER for file in path.glob(pattern) if file.is_file()})
    defaults = [file for file in [path / GENERATION] if file.is_file()]
    return ModelFiles(path, hash_of(path), window_of(path), sha256_files(texts), sha256_files(defaults))


def hash_of(folder: Path) -> str:
    """SHA-256 of the config and the weights in a model's folder."""
    return sha256_files([folder / "config.json", *sorted(folder.glob("*.safetensors"))])


def _folder(config: ModelConfig) -> Path:
    if config.path == "lab":
        if not (LAB_MODEL / "config.json").exists():
            raise UserError(
                f"the embedded model is not at {LAB_MODEL}: make it with `python tools/make_lab.py --out {LAB_MODEL}`"
            )
        return LAB_MODEL
    if is_gguf(config.path):
        return made_folder(config.path)
    local = Path(config.path).expanduser()
    if local.is_dir():
        return local.resolve()
    if local.is_absolute() or config.path.count("/") != 1 or config.path.startswith("."):
        raise UserError(f"model.path={config.path}: no such folder, and not a hub id (owner/name)")
    return _download(config)


def _download(config: ModelConfig) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                config.path,
                revision=config.revision,
                allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"],
            )
        )
    except Exception as error:  # the hub client raises a dozen unrelated classes
        raise UserError(
            f"model.path={config.path} can't be fetched from the hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:120]}): check the name and the network, or give a local folder"
        ) from error
