"""Tiny random models of each supported family, made on the fly: exactness does not depend on weights being good.

The final norm's weights are random too, so that a state taken before it would show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from grace.checkpoint import CheckpointConfig, save_config

Family = Literal["qwen2", "qwen3", "mistral", "llama"]
WINDOW = 48  # tokens that a layer of the Mistral model looks back

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama 3's form: a begin-of-text token, trimmed contents, and a date unless one is given.
LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% if message['role'] == 'system' %}Today Date: {{ date_string }}\n\n{% endif %}"
    "{{ message['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_CONTENT = "{% for message in messages %}<|im_start|>{{ message['role'] }}<|im_end|>\n{% endfor %}"

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
SENTENCES = (
    "The river rises in the hills. It runs through three towns, past mills and a market, and meets the sea. "
    "Who built the bridge? A guild of masons did, in 1432! Grüße aus Köln. שלום עולם. 你好，世界。 "
)
CONFIG = CheckpointConfig(
    instruction={"document": "Say what the document says.", "query": "Say what the query asks."},
    max_input_tokens=256,
    max_rationale_tokens=32,
)


def make_tokenizer(template: str | None = CHATML, *, vocab_size: int = 600) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with turn markers and think tags."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        [SENTENCES] * 4,
        trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(
    folder: Path,
    family: Family = "qwen2",
    *,
    template: str | None = None,
    config: CheckpointConfig | None = CONFIG,
    hidden: int = 64,
    layers: int = 2,
    context: int = 1024,
    intermediate: int = 128,
    vocab: int | None = None,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    stop_bias: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write a random causal LM with tokenizer and `grace.json` to `folder`.

    `stop_bias` scales the end-of-turn token's output row so that some rationales end by themselves.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(template or (LLAMA3 if family == "llama" else CHATML))
    shape: dict[str, Any] = {
        "vocab_size": vocab or len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32 if family == "qwen3" else max(1, hidden // 64) * 2,
        "num_key_value_heads": 1 if hidden < 256 else hidden // 128,
        "head_dim": 32 if family == "qwen3" or hidden < 128 else 64,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.15 if hidden <= 128 else 0.02,
    }
    shape["num_attention_heads"] = hidden // shape["head_dim"]
    model: Any
    match family:
        case "qwen2":
            shape.pop("head_dim")
            model = Qwen2ForCausalLM(Qwen2Config(**shape))
        case "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**shape))
        case "mistral":
            model = MistralForCausalLM(MistralConfig(**shape, sliding_window=WINDOW))
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**shape))
    with torch.no_grad():
        model.model.norm.weight.uniform_(0.5, 1.5)
        if stop_bias:
            # Towards the common direction of the states: the stop token then wins now and then.
            model.lm_head.weight[tokenizer.eos_token_id] *= stop_bias
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if config is not None:
        save_config(config, folder)
    return folder
