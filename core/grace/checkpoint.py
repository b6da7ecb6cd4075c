"""A GRACE checkpoint: a Hugging Face causal-LM folder plus `grace.json`, and the fingerprint both carry."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError, safe_open

from grace.errors import CheckpointError
from grace.pooling import POOLINGS, Pooling
from grace.representation import Mode, Role

FORMAT = 1  # of grace.json; a larger number comes from a newer version and is refused
CONFIG_FILE = "grace.json"
BUNDLED_NAME = "grace-tiny"
_MODELS = Path(__file__).parent / "models"
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_SIZES = ("hidden_size", "max_position_embeddings", "vocab_size")  # of config.json
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
_TOKENIZER_SOURCES = (  # of one without tokenizer.json
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
)

DEFAULT_INSTRUCTION: dict[Role, str] = {
    "document": (
        "Study the text you are given. First think about it inside <think></think>: its subject, its claims, the names "
        "and terms it turns on, and what it takes for granted. Then write a full understanding of the text, such that "
        "a reader could tell from it which questions the text answers."
    ),
    "query": (
        "Study the query you are given. First think about it inside <think></think>: what is asked for, in which "
        "sense, and which names and terms an answer would contain. Then write a full understanding of the query, with "
        "the answer as far as you know it, such that a reader could tell from it which texts would satisfy it."
    ),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """How rationales are written unless a request says otherwise."""

    temperature: float = 0.0  # 0 is greedy


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """The contents of `grace.json`.

    `mode` is what an index made for this checkpoint takes where nobody says otherwise: "direct" for documents, say, of
    a checkpoint whose rationales pay on the side of the query alone.
    """

    instruction: dict[Role, str] = field(default_factory=lambda: dict(DEFAULT_INSTRUCTION))
    pooling: Pooling = "mean"
    similarity: Literal["cosine"] = "cosine"
    max_input_tokens: int = 4096
    max_rationale_tokens: int = 512
    generation: Generation = field(default_factory=Generation)
    provenance: dict[str, Any] = field(default_factory=dict)
    mode: dict[Role, Mode] = field(default_factory=lambda: {"document": "reason", "query": "reason"})
    format: int = FORMAT

    @classmethod
    def from_json(cls, data: object) -> CheckpointConfig:
        """Check and read the parsed contents of a `grace.json`.

        Raises:
            CheckpointError: naming the key that is missing, unknown or has a wrong value.
        """
        if not isinstance(data, dict):
            raise CheckpointError(f"{CONFIG_FILE} must hold an object, not {type(data).__name__}")
        version = data.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise CheckpointError(f"{CONFIG_FILE} has no 'format' number")
        if version > FORMAT:
            raise CheckpointError(f"{CONFIG_FILE} has format {version}, this version reads up to {FORMAT}: upgrade")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise CheckpointError(f"{CONFIG_FILE} has unknown keys: {', '.join(unknown)}")
        if missing := sorted(known - {"provenance", "generation", "mode", "format"} - set(data)):
            raise CheckpointError(f"{CONFIG_FILE} lacks: {', '.join(missing)}")
        instruction = data["instruction"]
        roles = get_args(Role)
        if not isinstance(instruction, dict) or set(instruction) != set(roles):
            raise CheckpointError(f"{CONFIG_FILE}: 'instruction' must have exactly the roles {', '.join(roles)}")
        if any(not isinstance(text, str) or not text.strip() or not _is_text(text) for text in instruction.values()):
            raise CheckpointError(f"{CONFIG_FILE}: each 'instruction' must be a text that is not empty")
        if data["pooling"] not in POOLINGS:
            raise CheckpointError(f"{CONFIG_FILE}: 'pooling' must be one of {', '.join(POOLINGS)}")
        if data["similarity"] != "cosine":
            raise CheckpointError(f"{CONFIG_FILE}: 'similarity' must be 'cosine'")
        for key in ("max_input_tokens", "max_rationale_tokens"):
            if not isinstance(data[key], int) or isinstance(data[key], bool) or data[key] < 1:
                raise CheckpointError(f"{CONFIG_FILE}: '{key}' must be a whole number of at least 1")
        generation = data.get("generation", {})
        if not isinstance(generation, dict) or set(generation) - {"temperature"}:
            raise CheckpointError(f"{CONFIG_FILE}: 'generation' may hold 'temperature' alone")
        temperature = generation.get("temperature", 0.0)
        if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 <= temperature <= 2:
            raise CheckpointError(f"{CONFIG_FILE}: 'generation.temperature' must lie in 0..2")
        if not isinstance(data.get("provenance", {}), dict):
            raise CheckpointError(f"{CONFIG_FILE}: 'provenance' must be an object")
        mode = data.get("mode", {})
        if not isinstance(mode, dict) or any(r not in roles or m not in get_args(Mode) for r, m in mode.items()):
            raise CheckpointError(f"{CONFIG_FILE}: 'mode' must give a role one of {', '.join(get_args(Mode))}")
        modes = {role: mode.get(role, "reason") for role in roles}
        return cls(**{**data, "generation": Generation(float(temperature)), "mode": modes})

    def to_json(self) -> str:
        """The text of `grace.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder on disk, read and found usable."""

    name: str  # what the caller asked for; replies carry it
    folder: Path
    config: CheckpointConfig
    fingerprint: str  # 32 hex digits over weights, grace.json and tokenizer
    hidden_size: int
    context_tokens: int  # longest sequence the model was built for, or is held to
    vocab_size: int  # token ids it has states for: 0..vocab_size - 1
    weight_bytes: int

    @property
    def generation_end_ids(self) -> frozenset[int]:
        """Token ids at which the model's `generation_config.json` ends a generation."""
        return _end_ids(self.folder / "generation_config.json")

    @property
    def end_ids(self) -> frozenset[int]:
        """The same, and those of `config.json`, which may be older."""
        return self.generation_end_ids | _end_ids(self.folder / "config.json")

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = BUNDLED_NAME,
        *,
        revision: str | None = None,
        max_context_tokens: int | None = None,
    ) -> Checkpoint:
        """Find a checkpoint: the bundled name, a folder, or a hub id (fetched, or found in the local hub cache).

        A folder without `grace.json` is a base model under the default instruction. `max_context_tokens` shortens the
        model's context, where the memory for all of it is not there: texts that no longer fit are cut, the others'
        vectors stay what they are. Where they do not ("longrope"), the fingerprint is another.

        Raises:
            CheckpointError: what is missing or damaged, or the model has no context of that length.
        """
        folder = _find(str(name_or_path), revision)
        model_config = _read_json(folder / "config.json")
        model_config = model_config.get("text_config") or model_config
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise CheckpointError(f"{folder}: no weights (*.safetensors) here")
        _check_weights(folder, weights)
        path = folder / CONFIG_FILE
        config = CheckpointConfig.from_json(_read_json(path)) if path.exists() else CheckpointConfig()
        hidden, context, vocabulary = (_size(model_config, key, folder) for key in _SIZES)
        if max_context_tokens is not None and not 1 <= max_context_tokens <= context:
            raise CheckpointError(
                f"max_context_tokens must lie in 1..{context}, the context of {name_or_path}, not {max_context_tokens}"
            )
        return cls(
            name=str(name_or_path),
            folder=folder,
            config=config,
            fingerprint=_fingerprint(
                folder, weights, config, short=_is_short(model_config, context, max_context_tokens or context)
            ),
            hidden_size=hidden,
            context_tokens=max_context_tokens or context,
            vocab_size=vocabulary,
            weight_bytes=sum(file.stat().st_size for file in weights),
        )


def save_config(config: CheckpointConfig, folder: Path) -> Path:
    """Write `grace.json` beside a model's weights, which makes the folder a checkpoint."""
    path = folder / CONFIG_FILE
    path.write_text(config.to_json(), encoding="utf-8")
    return path


def _find(name: str, revision: str | None) -> Path:
    if name == BUNDLED_NAME:
        return _MODELS / BUNDLED_NAME
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"{name!r} is neither a folder nor a hub id such as 'owner/model'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except HFValidationError as error:
        raise CheckpointError(f"{name!r} is neither a folder nor a hub id: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{name!r} is no folder here, and the hub could not give it: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold an object")
    return data


def _size(model_config: dict[str, Any], key: str, folder: Path) -> int:
    size = model_config.get(key)
    if not isinstance(size, int) or size < 1:
        raise CheckpointError(f"{folder}/config.json lacks {key!r}, a whole number of at least 1")
    return size


def _check_weights(folder: Path, weights: list[Path]) -> None:
    """Whether every file is whole, as far as its header tells, and none is missing. Reads no weights."""
    for file in weights:
        try:
            with safe_open(file, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or cut short: {error}") from error
    if (index := folder / "model.safetensors.index.json").exists():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict):
            raise CheckpointError(f"{index} has no 'weight_map'")
        if missing := sorted({str(name) for name in named.values()} - {file.name for file in weights}):
            raise CheckpointError(f"{folder}: weights are missing: {', '.join(missing)}")


def _is_text(text: str) -> bool:
    return not any(0xD800 <= ord(c) <= 0xDFFF for c in text)


def _end_ids(path: Path) -> frozenset[int]:
    listed = _read_json(path).get("eos_token_id") if path.exists() else None
    return frozenset(i for i in (listed if isinstance(listed, list) else [listed]) if isinstance(i, int))


def _is_short(model_config: dict[str, Any], context: int, held_to: int) -> bool:
    """Whether positions have other frequencies for being held to a shorter context.

    Of "longrope" (Phi 3 and 4) there are two sets, and vLLM takes one for texts of any length, by the longest it is to
    take: within the context that the model had before it was extended, the short one.
    """
    rope = model_config.get("rope_parameters") or model_config.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", rope.get("type")) not in ("longrope", "su"):
        return False
    before = rope.get("original_max_position_embeddings", model_config.get("original_max_position_embeddings"))
    return isinstance(before, int) and held_to <= before < context


def _fingerprint(folder: Path, weights: list[Path], config: CheckpointConfig, *, short: bool) -> str:
    digest = hashlib.sha256()
    made_from = () if (folder / "tokenizer.json").exists() else _TOKENIZER_SOURCES
    tokenizer = [folder / name for name in (*_TOKENIZER_FILES, *made_from) if (folder / name).exists()]
    for file in [*weights, folder / "config.json", *tokenizer]:
        digest.update(f"{file.name}\0{_content_hash(file)}\0".encode())
    # The meaning of grace.json, not its bytes; where a model came from does not change what it computes.
    # Nor does the mode that is taken where none is asked for.
    meaning = {key: value for key, value in asdict(config).items() if key not in ("provenance", "mode")}
    digest.update(json.dumps(meaning, sort_keys=True).encode())
    # Where rationales end: at the ids of the generation config. Most models name the same in config.json, which is in.
    ends, known = _end_ids(folder / "generation_config.json"), _end_ids(folder / "config.json")
    if more := ends - known:
        digest.update(f"end{sorted(more)}".encode())
    if ends and (fewer := known - ends):
        digest.update(f"on{sorted(fewer)}".encode())
    if short:
        digest.update(b"short")
    return digest.hexdigest()[:32]


def _content_hash(file: Path) -> str:
    # A hub cache stores large files under their own SHA-256: no need to read gigabytes again.
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob := file.resolve().name):
        return blob
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
