"""From a text to a prompt of token ids whose parts are known exactly. The only home of template and spans.

    prefix (template up to the user's text, instruction included) | text | suffix (template up to the assistant's turn)

Ids are put together, never searched for afterwards. The text is tokenised by a tokenizer that knows no special tokens,
so that nothing in it can close its turn or open another. Only the text is ever truncated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

from tokenizers import Encoding, Tokenizer

from grace import rationale, sentences
from grace.checkpoint import Checkpoint
from grace.decoder import Decoder
from grace.errors import CheckpointError, InputTooLong, InvalidInput, UnsupportedModel, check_one_of
from grace.representation import Job, Mode, Rationale, Role, Segment

LONG_TEXT_CHARS = 4000  # above, making the prompt takes longer than changing threads
MAX_SEGMENTS = 32  # per text, over input, template and rationale; the engines keep this many sums
MAX_INPUT_SEGMENTS = 16
MAX_RATIONALE_SEGMENTS = MAX_SEGMENTS - MAX_INPUT_SEGMENTS - 1  # one is the template's

# A user turn that no template alters: no white space at its ends, no tags, no mark that a template looks for.
_SENTINELS = ("grace7f3c9dtext", "grace1b8e2atext")
# Templates of the Llama 3 family print today's date unless told one: a prompt must not change overnight.
_TAG = re.compile(f"({re.escape(rationale.OPEN)}|{re.escape(rationale.CLOSE)})")
_TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024"}


@dataclass(frozen=True, slots=True)
class Template:
    """The two fixed parts of a role's prompt, as token ids."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    thinking_open: bool  # the suffix ends inside <think>


class Prompter:
    """Builds jobs for one checkpoint.

    Raises:
        CheckpointError: on construction, when tokenizer files are missing or damaged.
        UnsupportedModel: on construction, when the chat template cannot be handled exactly.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        from transformers import AutoTokenizer  # torch comes with it: seconds that an export or a list need not cost

        self.checkpoint = checkpoint
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint.folder), use_fast=True)
        except Exception as error:  # damage ends in whatever Transformers or the Rust library raises
            raise CheckpointError(f"{checkpoint.folder}: the tokenizer does not load: {error}") from error
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise UnsupportedModel(f"{checkpoint.name}: its tokenizer is not a fast one, spans would be guesses")
        ids = frozenset(backend.get_vocab().values())
        added: dict[int, Any] = self.tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special}
        self._check_highest(ids - special)  # Gemma 3 1B names an image's token, and has no states for it
        # One known id is enough: a config may keep ids of the model that this one was made from. Nor does it prove
        # anything that the tokenizer names another end: in whole families the two differ.
        ends = {i for i in checkpoint.end_ids if 0 <= i < checkpoint.vocab_size}
        if ends and ends.isdisjoint(ids):
            raise CheckpointError(
                f"{checkpoint.folder}: the tokenizer is another model's: it has no token of the ids at which the model "
                f"ends ({', '.join(map(str, sorted(ends)))})"
            )
        self._tag_ids = {str(t): i for i, t in added.items() if str(t) in (rationale.OPEN, rationale.CLOSE)}
        self._plain = _without_special_tokens(backend)
        self.templates: dict[Role, Template] = {role: self._template(role) for role in get_args(Role)}
        turns = {i for t in self.templates.values() for i in (*t.prefix, *t.suffix)}
        self._check_highest(turns)
        # What no text may hold. Other added tokens are ordinary: Gemma has line breaks and runs of spaces among them.
        marks = {i for i in turns & added.keys() if str(added[i]).replace("▁", " ").strip()}
        # The token for unknown characters is no such mark: a text that has them is read as well as it can be.
        unknown = {self.tokenizer.unk_token_id} - turns - set(self.stop_ids)
        self._special_ids = frozenset((special | marks | set(self._tag_ids.values())) - unknown)
        config = checkpoint.config
        self.overhead = max(len(t.prefix) + len(t.suffix) for t in self.templates.values())
        room = checkpoint.context_tokens - self.overhead
        if room < 2:
            raise UnsupportedModel(
                f"{checkpoint.name}: template and instruction take {self.overhead} tokens of a context of "
                f"{checkpoint.context_tokens}: no room for a text"
            )
        # The two budgets share what the context leaves; a short context cuts the rationale first, down to a half.
        self.max_input_tokens = max(1, min(config.max_input_tokens, room - min(config.max_rationale_tokens, room // 2)))
        self.max_rationale_tokens = room - self.max_input_tokens  # the most a request may ask for
        self.default_rationale_tokens = min(config.max_rationale_tokens, self.max_rationale_tokens)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a rationale: the tokenizer's end of turn and those of the model's generation config.

        Some configs keep ids of the model that theirs was made from, which is larger: vLLM refuses these.
        """
        ids = {self.tokenizer.eos_token_id, *self.checkpoint.generation_end_ids}
        return tuple(sorted(i for i in ids if i is not None and 0 <= i < self.checkpoint.vocab_size))

    @cached_property
    def segment_end_ids(self) -> tuple[int, ...]:
        """Ids that end a segment of a rationale: their text holds a closing mark or a line break, or is </think>."""
        size = len(self.tokenizer)
        pieces = self.tokenizer.batch_decode([[i] for i in range(size)], skip_special_tokens=False)
        ends = sentences.ENDS
        return tuple(i for i, piece in enumerate(pieces) if not ends.isdisjoint(piece) or piece == rationale.CLOSE)

    def job(
        self,
        text: str,
        *,
        role: Role = "document",
        mode: Mode = "reason",
        max_rationale_tokens: int | None = None,
        temperature: float | None = None,
        sample: int = 0,
        given: str | None = None,
        truncate: bool = True,
    ) -> Job:
        """The prompt of one text.

        `direct` pools the text alone and writes nothing; an empty text has no token of its own, so there the
        template's suffix is pooled. A `given` rationale is pooled and none is written. Lone surrogates become U+FFFD.

        Raises:
            InputTooLong: the text (or the given rationale) is over its limit and `truncate` is off (a given rationale
                is never cut).
            InvalidInput: an option has a value that cannot be served.
        """
        check_one_of("role", role, get_args(Role))
        check_one_of("mode", mode, get_args(Mode))
        template = self.templates[role]
        budget = self._budget(max_rationale_tokens, mode, given)
        text = well_formed(text)
        ids, offsets, full_length = self._encode_text(text)
        truncated = full_length > self.max_input_tokens
        if truncated:
            if not truncate:
                raise InputTooLong(full_length, self.max_input_tokens)
            text = text[: offsets[-1][1]]
        segments = _input_segments(text, offsets)
        suffix = template.suffix if mode == "reason" or not ids else ()
        if suffix:
            segments.append(Segment("template", 0, 0, len(suffix)))
        given_ids: tuple[int, ...] = ()
        written = None
        if given is not None:
            given_ids = self.rationale_ids(given)
            # vLLM takes no prompt that fills the context: there would be no place for a token.
            room = self.checkpoint.context_tokens - 1 - len(template.prefix) - len(ids) - len(suffix)
            if len(given_ids) > (limit := min(self.max_rationale_tokens, room)):
                raise InputTooLong(len(given_ids), limit, param="rationale")
            written = rationale.read(well_formed(given), given_ids, "given", thinking_open=template.thinking_open)
            segments += self.rationale_segments(written, places=self._rationale_ends(written.text))
        return Job(
            text=text,
            prompt_ids=(*template.prefix, *ids, *suffix, *given_ids),
            pooled_from=len(template.prefix),
            segments=tuple(segments),
            max_new_tokens=budget,
            temperature=self._temperature(temperature) if budget else 0.0,
            sample=sample,
            truncated=truncated,
            given=written,
            thinking_open=template.thinking_open,
        )

    def rationale_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a given rationale: its think tags are the model's own, everything else is ordinary text."""
        ids: list[int] = []
        for part in _split_tags(well_formed(text)):
            if (tag := self._tag_ids.get(part)) is not None:
                ids.append(tag)
                continue
            ordinary = self._encode(part).ids
            self._check_ordinary(ordinary, param="rationale")
            ids += ordinary
        return tuple(ids)

    def _rationale_ends(self, text: str) -> list[int]:
        """Characters at which the tokens of a given rationale end. Decoded, it may be of other ones: Qwen's tokenizer
        composes accents and Korean syllables.
        """
        ends: list[int] = []
        start = 0
        for part in _split_tags(text):
            places = [(0, len(part))] if part in self._tag_ids else self._encode(part).offsets
            ends += [start + end for _, end in places]
            start += len(part)
        return ends

    def decode(self, ids: tuple[int, ...]) -> str:
        """The text of generated ids, think tags included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text each id adds, "" where a character is still in the making."""
        decoder = self.decoder()
        return [decoder.step(i) for i in ids]

    def decoder(self) -> Decoder:
        """For a rationale that is read while it is written."""
        return Decoder(self.tokenizer.backend_tokenizer)

    def rationale_segments(
        self,
        written: Rationale,
        *,
        pooled: int | None = None,
        places: Sequence[int] | None = None,  # characters at which its tokens end; None: as they are decoded
    ) -> list[Segment]:
        """Segments of a rationale's first `pooled` tokens (all by default), cut where the engines cut."""
        ids = written.token_ids[:pooled]
        ends = frozenset(self.segment_end_ids)
        lengths = sentences.runs([i in ends for i in ids], limit=MAX_RATIONALE_SEGMENTS)
        segments, token, char = [], 0, 0
        for length in lengths:
            token += length
            if token == len(written.token_ids):
                end = len(written.text)
            elif places is not None:
                end = places[token - 1]
            else:  # decoding a head of the ids costs little, and is right where a character spans tokens
                end = len(self.decode(ids[:token]).rstrip("�"))
            segments.append(Segment("rationale", char, max(char, end), length))
            char = max(char, end)
        return segments

    def _check_highest(self, ids: Iterable[int]) -> None:
        if (highest := max(ids, default=-1)) >= self.checkpoint.vocab_size:
            raise CheckpointError(
                f"{self.checkpoint.folder}: the tokenizer is another model's: it has ids up to {highest}, the model "
                f"those below {self.checkpoint.vocab_size}"
            )

    def _budget(self, requested: int | None, mode: Mode, given: str | None) -> int:
        if given is not None and mode == "direct":
            raise InvalidInput(
                "rationale cannot be given in mode 'direct', which pools the text alone", param="rationale"
            )
        if requested is not None and not 1 <= requested <= self.max_rationale_tokens:
            raise InvalidInput(
                f"max_rationale_tokens must lie in 1..{self.max_rationale_tokens}, got {requested}",
                param="max_rationale_tokens",
            )
        if mode == "direct" or given is not None:
            return 0
        return self.default_rationale_tokens if requested is None else requested

    def _temperature(self, requested: float | None) -> float:
        value = self.checkpoint.config.generation.temperature if requested is None else requested
        if not 0 <= value <= 2:
            raise InvalidInput(f"temperature must lie in 0..2, got {value}", param="temperature")
        return value

    def _encode_text(self, text: str) -> tuple[list[int], list[tuple[int, int]], int]:
        """Ids of the tokens that there is room for, where each is in the text, and how many it has in all."""
        encoding = self._encode(text)
        ids, length, room = encoding.ids, len(encoding), self.max_input_tokens
        if length <= room:
            offsets = encoding.offsets
        else:
            # One by one: the places of a million tokens take seconds to make, under Python's lock.
            ids, places = ids[:room], map(encoding.token_to_chars, range(room))
            offsets = [place for place in places if place is not None]  # all: it is asked for none that is not there
        self._check_ordinary(ids, param="input")
        return ids, offsets, length

    def _check_ordinary(self, ids: Sequence[int], *, param: str) -> None:
        if not self._special_ids.isdisjoint(ids):
            raise InvalidInput(
                f"{param}: the tokenizer of {self.checkpoint.name} makes special tokens out of this text", param=param
            )

    def _encode(self, text: str) -> Encoding:
        """Tokens of ordinary text.

        A long one leaves Python's lock to others, which only a batch does. A short one does not wait for the threads
        that batches share: there may be long ones before it.
        """
        if len(text) <= LONG_TEXT_CHARS:
            return self._plain.encode(text, add_special_tokens=False)
        [encoding] = self._plain.encode_batch([text], add_special_tokens=False)
        return encoding

    def _template(self, role: Role) -> Template:
        instruction = self.checkpoint.config.instruction[role]
        if not getattr(self.tokenizer, "chat_template", None):
            raise UnsupportedModel(f"{self.checkpoint.name}: no chat template, so no place for instruction and text")
        for messages in _with_instruction(instruction):
            rendered = [self._render(messages, sentinel) for sentinel in _SENTINELS]
            if (parts := _split(rendered, instruction)) is not None:
                prefix, suffix = parts
                return Template(
                    prefix=self._template_ids(prefix),
                    suffix=self._template_ids(suffix),
                    thinking_open=suffix.rstrip().endswith(rationale.OPEN),
                )
        raise UnsupportedModel(
            f"{self.checkpoint.name}: its chat template has no place for an instruction before an unaltered text"
        )

    def _render(self, messages: list[dict[str, str]], sentinel: str) -> str | None:
        filled = [{**m, "content": m["content"].replace("{text}", sentinel)} for m in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    filled, tokenize=False, add_generation_prompt=True, **_TEMPLATE_ARGUMENTS
                )
            )
        except Exception:  # noqa: BLE001 - a template refuses a system turn by raising whatever it likes
            return None

    def _template_ids(self, part: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(part, add_special_tokens=False)["input_ids"])


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD: they are no characters and no tokenizer takes them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _without_special_tokens(backend: Tokenizer) -> Tokenizer:
    described = json.loads(backend.to_str())
    model = described["model"]
    if model.get("type") == "Unigram":  # its vocabulary spells them too, and their score is the best: ids without words
        special = {token["content"] for token in described["added_tokens"] if token["special"]}
        model["vocab"] = [
            [f"\uffff\uffff{i}" if p in special else p, score] for i, (p, score) in enumerate(model["vocab"])
        ]
    described.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    return Tokenizer.from_str(json.dumps(described))


def _with_instruction(instruction: str) -> Iterator[list[dict[str, str]]]:
    """The two ways to give an instruction: a turn of its own, or the head of the user's turn."""
    escaped = instruction.replace("{text}", "{ text }")
    yield [{"role": "system", "content": escaped}, {"role": "user", "content": "{text}"}]
    yield [{"role": "user", "content": escaped + "\n\n{text}"}]


def _split(rendered: list[str | None], instruction: str) -> tuple[str, str] | None:
    """Prefix and suffix around the sentinel, if the template is the same for every text and holds the instruction."""
    parts = set()
    for text, sentinel in zip(rendered, _SENTINELS, strict=True):
        if text is None or text.count(sentinel) != 1:
            return None
        head, _, tail = text.partition(sentinel)
        parts.add((head, tail))
    if len(parts) != 1:
        return None
    prefix, suffix = parts.pop()
    return (prefix, suffix) if instruction.strip() in prefix and suffix else None


def _split_tags(text: str) -> Iterator[str]:
    return (part for part in _TAG.split(text) if part)


def _first_letter(text: str, start: int, end: int) -> int:
    """The first place of a token that is no white space; the last of one that is nothing else."""
    while start < end - 1 and text[start].isspace():
        start += 1
    return start


def _input_segments(text: str, offsets: list[tuple[int, int]]) -> list[Segment]:
    """One segment per sentence. A token belongs to the sentence its first letter is in: the space that a token begins
    with, in most tokenizers, is of the sentence before.
    """
    segments: list[Segment] = []
    start = token = 0
    for end in sentences.sentence_ends(text, limit=MAX_INPUT_SEGMENTS):
        first = token
        while token < len(offsets) and (end == len(text) or _first_letter(text, *offsets[token]) < end):
            token += 1
        if token > first:
            segments.append(Segment("input", start, end, token - first))
            start = end
    if segments and start < len(text):
        # The last sentence is all in a token that began in the one before.
        segments[-1] = replace(segments[-1], end=len(text))
    return segments
