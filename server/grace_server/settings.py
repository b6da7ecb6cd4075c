"""Every setting of the service: one frozen tree, read once and passed down. No other file reads the environment.

Flags of `grace-serve` win over `GRACE_*` variables, these over the YAML file named by `--config` or GRACE_CONFIG, and
that over the defaults below. `docs/configuration.md` is generated from this file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)
from yaml import YAMLError

from grace.checkpoint import BUNDLED_NAME

PREFIX = "GRACE_"
CONFIG_VARIABLE = "GRACE_CONFIG"
_STARS = str(SecretStr("x"))
_SECRET = re.compile("token(?!iz)|key|secret|password", re.IGNORECASE)  # in names: `hf_token`, but not `tokenizer_mode`
_USER = re.compile(r"(?<=://)[^/?#\s]*@")  # of an address, with its password
# Of an address, what a query names like a secret: `?api_key=...`.
_ASKED = re.compile(rf"(?<=[?&])([^=&#\s]*(?:{_SECRET.pattern})[^=&#\s]*)=[^&#\s]*", re.IGNORECASE)

Listed = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What an operator can decide."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, protected_namespaces=(), env_ignore_empty=True
    )

    config: Path | None = Field(None, description="YAML file with further settings")

    # What is served
    model: str = Field(BUNDLED_NAME, description="checkpoint: the bundled name, a folder, or a hub id")
    revision: str | None = Field(None, description="revision of a hub id: branch, tag or commit")
    model_name: str | None = Field(None, description="name in replies; by default the hub id or the folder's name")
    model_aliases: Listed = Field((), description="further names that /v1 accepts, such as text-embedding-3-small")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("grace", appauthor=False),
        description="where index, cache and jobs live",
    )

    # Where and to whom
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 is all of them")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys, one of which a request must send; none: everyone may ask"
    )

    cors_origins: Listed = Field(
        (), description="origins whose pages may ask from a browser, such as https://app.example.org; * is all"
    )

    audit_key: Path | None = Field(
        None, description="Ed25519 private key (PEM) that signs audit records; see explanations.md"
    )

    # Engine
    engine: Literal["vllm", "transformers"] = Field("vllm", description="what runs the model")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="type of weights and activations")
    max_context_tokens: int | None = Field(
        None, ge=1, description="the longest prompt with its rationale; by default what the model was built for"
    )
    device: str = Field("cpu", description="torch device of the transformers engine; vLLM finds its own")
    max_num_seqs: int = Field(64, ge=1, description="vLLM: texts in one step")
    max_num_batched_tokens: int = Field(4096, ge=1, description="vLLM: tokens in one step")
    kv_cache_gib: float | None = Field(
        None, gt=0, description="vLLM: memory of the key-value cache; by default 2 on a CPU"
    )
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="vLLM: share of the GPU's memory")
    tensor_parallel_size: int = Field(1, ge=1, description="vLLM: GPUs each layer is spread over")
    pipeline_parallel_size: int = Field(1, ge=1, description="vLLM: GPUs the layers are spread over, one after another")
    data_parallel_size: int = Field(1, ge=1, description="vLLM: copies of the model, each on GPUs of its own")
    enforce_eager: bool | None = Field(None, description="vLLM: no CUDA graphs; by default so on a CPU only")
    prefix_caching: bool = Field(True, description="vLLM: keep the states of the instruction between texts")
    engine_args: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict, description="vLLM: further engine arguments, as a JSON object"
    )

    # Replicas on Ray; `grace-serve` alone has one engine and none of these
    ray_min_replicas: int = Field(1, ge=1, description="Ray: engines there are at least")
    ray_max_replicas: int = Field(1, ge=1, description="Ray: engines there are at most")
    ray_target_requests: float | None = Field(
        None, gt=0, description="Ray: texts inside an engine, above which one more is started; by default half of them"
    )
    ray_cpus: float = Field(1.0, ge=0, description="Ray: CPU cores reserved for an engine")
    ray_gpus: float = Field(0.0, ge=0, description="Ray: GPUs reserved for an engine")
    ray_ingress_resources: Annotated[dict[str, float], NoDecode] = Field(
        default_factory=dict, description="Ray: resources of the node that has the data folder, as a JSON object"
    )
    ray_attempts: int = Field(3, ge=1, description="Ray: engines a text is tried on, when they die over it")

    # What one request may ask for
    max_inputs: int = Field(256, ge=1, description="texts in one request")
    max_samples: int = Field(16, ge=1, description="rationales per text (n)")
    max_input_chars: int = Field(1_000_000, ge=1, description="characters of one text, before it is tokenised")
    max_body_mib: float = Field(16.0, gt=0, description="size of a request's body")
    max_head_kib: int = Field(64, ge=1, description="size of a request's line and headers")
    header_timeout_s: float = Field(
        15.0, gt=0, description="how long a client may take to send a request's line and headers"
    )
    body_timeout_s: float = Field(60.0, gt=0, description="how long a client may take to send a request's body")
    send_timeout_s: float = Field(
        60.0,
        gt=0,
        description="how long a client may leave an answer unread; "
        "whoever reads 64 KiB of it in this time gets as much time again",
    )

    # How many at once
    max_running_requests: int = Field(256, ge=1, description="texts inside the engine at once")
    max_running_tokens: int = Field(262_144, ge=1, description="their tokens: prompts and rationale budgets")
    max_queued_requests: int = Field(4096, ge=0, description="texts that wait; one more is refused with 429")
    max_queued_tokens: int = Field(8_388_608, ge=0, description="their tokens; more are refused with 429")
    queue_timeout_s: float = Field(60.0, gt=0, description="how long a text may wait before it is refused with 429")
    deadline_s: float | None = Field(
        None,
        gt=0,
        description="longest time an answer may take; a request that is expected to take longer "
        "is refused at once with 429; by default no deadline",
    )
    generate_timeout_s: float = Field(600.0, gt=0, description="how long the engine may take for one text")
    engine_timeout_s: float = Field(
        300.0, gt=0, description="vLLM: how long one step may take before the engine counts as hung and is killed"
    )
    engine_niceness: int = Field(
        10,
        ge=0,
        le=19,
        description="vLLM on a CPU: nice value of its process; "
        "above 0 the service answers requests first and the model computes after",
    )

    # Stopping
    drain_timeout_s: float = Field(30.0, ge=0, description="how long running requests may finish after SIGTERM")
    keep_alive_s: int = Field(75, ge=1, description="how long an idle connection stays open")

    # Cache
    cache: bool = Field(True, description="keep representations on disk; texts are never stored")
    cache_max_mib: int = Field(2048, ge=1, description="size of the cache on disk")

    # Vectors of indexes
    qdrant_url: str | None = Field(
        None, description="Qdrant server that holds and searches the vectors; by default FAISS does, in this process"
    )
    qdrant_api_key: SecretStr | None = Field(None, description="key of that server")

    # What is told
    engine_metrics: bool = Field(True, description="vLLM: add its own metrics to /metrics")
    tracing: bool = Field(False, description="send OpenTelemetry spans to where the OTEL_* variables say")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity logged")
    log_texts: bool = Field(False, description="write input texts and rationales to the log")

    @field_validator("model_aliases", "api_keys", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("api_keys", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, str) and value and not value.strip(" ,"):
            raise ValueError("holds no key: without any, everyone may ask; leave the setting out if that is meant")
        return value

    @field_validator("api_keys")
    @classmethod
    def _sendable(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
                raise ValueError("a key has at least one character, and only such as a header holds: ASCII, no spaces")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(f"{origin!r} is no origin: scheme, host and port, without a path; or *")
        return value

    @field_validator("tracing")
    @classmethod
    def _installed(cls, value: bool) -> bool:
        if value and find_spec("opentelemetry.exporter.otlp.proto.http") is None:
            raise ValueError("spans need the packages of an extra; in a checkout: pip install '.[tracing]'")
        return value

    @field_validator("engine_args", "ray_ingress_resources", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        room = self.max_running_requests + self.max_queued_requests
        if self.max_inputs * self.max_samples > room:
            raise ValueError(
                f"max_inputs x max_samples is {self.max_inputs * self.max_samples}, but max_running_requests + "
                f"max_queued_requests is {room}: such a request could never be admitted"
            )
        return self

    @model_validator(mode="after")
    def _has_its_gpus(self) -> Self:
        if self.ray_min_replicas > self.ray_max_replicas:
            raise ValueError(
                f"ray_min_replicas is {self.ray_min_replicas}, but ray_max_replicas is {self.ray_max_replicas}"
            )
        spread = self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size
        if self.engine == "vllm" and self.ray_gpus and spread > 1 and self.ray_gpus != spread:
            raise ValueError(
                f"ray_gpus is {self.ray_gpus:g}, but tensor_parallel_size x pipeline_parallel_size x "
                f"data_parallel_size is {spread}: an engine needs as many GPUs as it is spread over"
            )
        if self.engine == "transformers" and spread > 1:
            raise ValueError(
                "tensor_parallel_size, pipeline_parallel_size and data_parallel_size are vLLM's: with engine "
                "transformers they must be 1"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the YAML file."""
        path = init_settings().get("config") or os.environ.get(CONFIG_VARIABLE)
        if not path:
            return init_settings, env_settings
        if not Path(path).is_file():
            raise FileNotFoundError(f"the configuration file {path} does not exist")
        try:
            return init_settings, env_settings, YamlConfigSettingsSource(settings_cls, yaml_file=path)
        except (YAMLError, ValueError, TypeError) as error:
            raise SettingsError(f"the configuration file {path} is no YAML with a setting a line: {error}") from error

    @property
    def max_body_bytes(self) -> int:
        """The body limit in bytes."""
        return int(self.max_body_mib * 2**20)

    def shown(self) -> dict[str, Any]:
        """Every setting, with secrets as stars and addresses without their user: what `/info` prints."""
        values = self.model_dump(mode="json")
        return {name: _veiled(value, by_name=name == "engine_args") for name, value in values.items()}


def unknown_variables(names: Iterable[str] | None = None) -> list[str]:
    """`GRACE_*` variables of the environment that are neither settings nor the client's, likely a typing error."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields} | {"GRACE_CLIENT_URL", "GRACE_CLIENT_API_KEY"}
    present = os.environ if names is None else names
    return sorted(name for name in present if name.upper().startswith(PREFIX) and name.upper() not in known)


def _veiled(value: Any, *, by_name: bool, secret: bool = False) -> Any:
    """A setting's value without what only the operator may know; `by_name`: which that is, names tell."""
    match value:
        case dict():
            return {
                name: _veiled(part, by_name=by_name, secret=secret or (by_name and bool(_SECRET.search(str(name)))))
                for name, part in value.items()
            }
        case list():
            return [_veiled(part, by_name=by_name, secret=secret) for part in value]
        case str():
            return _STARS if secret else _ASKED.sub(rf"\1={_STARS}", _USER.sub("", value))
        case _:
            return value
