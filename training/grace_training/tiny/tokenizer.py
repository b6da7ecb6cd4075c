"""The tokenizer of grace-tiny: byte-level BPE, with the ChatML and think marks as single tokens.

`python -m grace_training.tiny.tokenizer` learns it and encodes the corpus into `tokens.npy`.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from grace_training.tiny import corpus

log = logging.getLogger(__name__)

VOCABULARY = 8192
END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
THINK = "<think>"
THINK_END = "</think>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END, THINK, THINK_END)

# Qwen's word pattern: digits one by one, a leading blank or sign goes with the word.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def learn(texts: Sequence[str]) -> Tokenizer:
    """Byte-pair merges from the texts, up to `VOCABULARY` entries with the special ones first (ids 0 to 4)."""
    tokenizer = Tokenizer(models.BPE())
    # transformers loads every Qwen2 folder with its own Qwen2Tokenizer, which composes characters (seen in 5.19):
    # so does this one, that training and serving see the same ids.
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(mark, special=True, normalized=False) for mark in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # As in Qwen3, the think marks are single tokens but not "special": they belong to the answer, so a server that
    # decodes without special tokens still shows them.
    described = json.loads(tokenizer.to_str())
    for entry in described["added_tokens"]:
        entry["special"] = entry["content"] not in (THINK, THINK_END)
    return Tokenizer.from_str(json.dumps(described))


def mark_id(tokenizer: Tokenizer, mark: str) -> int:
    """Id of a mark that the tokenizer must have."""
    found = tokenizer.token_to_id(mark)
    if found is None:
        raise ValueError(f"the tokenizer has no {mark}")
    return found


def plain(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without its marks: a mark inside a text is split into ordinary tokens.

    So no text can open or close a turn, or think.
    """
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(described))


def save(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write the three files that transformers' AutoTokenizer and vLLM read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "\n", encoding="utf-8")
    settings = {
        "add_prefix_space": False,
        "additional_special_tokens": [TURN_START, TURN_END],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": max_length,
        "pad_token": END_OF_TEXT,
        "padding_side": "right",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Learn the tokenizer and encode the corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    options.work.mkdir(parents=True, exist_ok=True)

    texts = list(corpus.documents(options.data))
    rng = np.random.default_rng(options.seed)
    rng.shuffle(texts)
    log.info("%d documents, %.1f M characters", len(texts), sum(map(len, texts)) / 1e6)
    path = options.work / "tokenizer.json"
    if not path.exists():
        learn(texts[: len(texts) // 2]).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    ordinary = plain(tokenizer)
    end = mark_id(tokenizer, END_OF_TEXT)
    stream: list[np.ndarray[tuple[int], np.dtype[np.uint16]]] = []
    for start in range(0, len(texts), 1000):
        for encoding in ordinary.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False):
            stream.append(np.array([*encoding.ids, end], dtype=np.uint16))
    tokens = np.concatenate(stream)
    np.save(options.work / "tokens.npy", tokens)
    log.info("%d entries, %.2f M tokens", tokenizer.get_vocab_size(), len(tokens) / 1e6)


if __name__ == "__main__":
    main()
