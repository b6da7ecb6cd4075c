"""The model card of grace-tiny, written from what was measured."""

from collections import Counter
from typing import Any

from grace_training.tiny import corpus

_HEAD = """---
license: cc-by-sa-4.0
language: en
library_name: grace-embed
pipeline_tag: feature-extraction
tags: [sentence-similarity, text-generation]
---

# grace-tiny

A language model of {millions:.1f} million parameters that writes a short rationale for an English text and whose
mean-pooled last hidden states, over the text and that rationale, are its embedding (384 numbers, cosine). It was
trained from scratch on open text: {spent}.
It is bundled so that everything works at once, offline and on any machine: it shows the method, and it is no rival to
models a thousand times its size.

    <think>topic, key term, key term</think>what the text says, in a short sentence<|im_end|>

"""

_NAMES = {
    "sample_held_out_texts": "held-out texts that rationales were written for (number)",
    "sample_sts_pairs": "STSBenchmark dev pairs judged (number)",
    "sample_articles": "WikiText-2 articles read (number)",
    "perplexity": "WikiText-2 valid + test, perplexity per token (8192-entry vocabulary)",
    "bits_per_byte": "WikiText-2 valid + test, bits per byte",
    "rationales_ended": "rationales ended by themselves within 48 tokens (share)",
    "rationales_well_formed": "rationales well-formed and ended by themselves within 48 tokens (share)",
    "rationales_looping": "rationales that have some three words in a row three times (share)",
    "rationale_tokens_mean": "tokens per rationale (mean)",
    "rationale_tokens_median": "tokens per rationale (median)",
    "rationale_words_found_in_text": "words of the rationale (over three letters) that stand in the text (share)",
    "rationale_terms_faulty": "terms inside <think> that are there twice or that the text does not have (share)",
    "heaviest_terms_named": "of a text's five heaviest terms by TF-IDF, those that its rationale names (share)",
    "stsbenchmark_dev_spearman_direct": "STSBenchmark dev, Spearman x 100, text alone",
    "stsbenchmark_dev_spearman_reason": "STSBenchmark dev, Spearman x 100, text and rationale",
    "banking77_accuracy_direct": "Banking77 test, accuracy x 100 by a regression on train's, text alone",
    "banking77_accuracy_reason": "Banking77 test, accuracy x 100 by a regression on train's, text and rationale",
    "cranfield_ndcg10_direct": "Cranfield, nDCG@10 x 100, text alone (BM25: 40.4)",
    "cranfield_ndcg10_reason": "Cranfield, nDCG@10 x 100, text and rationale (BM25: 40.4)",
}

# What of the evaluation texts stands in the training text is counted by `contamination.py`.
_SEEN = """Greedy rationales by the one-pass engine. The held-out texts that rationales were written for were seen by no
stage (CRC-32 a multiple of 64); of the evaluation sets, 43 of 2,904 STSBenchmark dev texts and 59 of 3,065 Banking77
test messages stand in the training text, and the regression on Banking77 is fitted on messages that were trained on."""

_TAIL = """
## Training

Qwen2 architecture: 5 layers, 384 wide, 6 heads of 64 with 2 key-value heads, a head of its own, 1024 positions. Byte-
level BPE of 8192 entries. First plain language modelling ({tokens:.1f} million tokens) at a width of 256. A table of
word vectors, learned alone by InfoNCE, was then built into the stream as 128 numbers more a token. Then vectors
(InfoNCE over pairs of texts that belong together, in large batches out of neighbourhoods of the corpus), and
rationales beside them: cross-entropy with an unlikelihood loss on what a rationale already has, and InfoNCE for the
text alone and for text and rationale (the vectors of texts alone are kept close to what they were). Then it learned
from the best of its own rationales, corrected, and, in two rounds, to avoid the faults of the others. The mean of the
weights of these three stages was trained further on texts of a few words.
Rationale targets were built from the data without any model: title and tf-idf terms, then the first sentence, a human
summary or the intent. Muon for the matrices, Adam for the rest. Every step is a command of `grace_training.tiny`;
`make tiny` is all of them.

## Limits

- It restates; it does not know. A rationale may contain wrong words, above all names it has hardly seen; read it as the
  text's key terms, not as facts.
- Now and then greedy decoding falls into a loop or runs to the limit of 48 tokens.
- English prose: encyclopedia, textbooks, abstracts, captions, short messages. No code, no other languages.
- Texts up to 896 tokens; it was trained on rationales for texts of up to about 520.
- Whatever Wikipedia and the other sources lean towards, it does too. Not for decisions about people.
- The caption pairs are e-SNLI's dev and test splits (its train split was not at hand), without the sentences of
  STSBenchmark dev: do not judge this model on SNLI.

## Licence

The weights are passed on under CC BY-SA 4.0, since most of the text is under CC BY-SA 3.0 or 4.0, and 3.0 allows the
later version; the code that made them is Apache-2.0.
"""


def _figure(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _spent(provenance: dict[str, Any]) -> str:
    minutes: Counter[str] = Counter()
    for stage, device in provenance["devices"].items():
        minutes[device] += provenance["minutes"][stage]
    return ", ".join(
        f"{spent:.1f} minutes of steps on {'processor cores' if device == 'cpu' else device}"
        for device, spent in minutes.most_common()
    )


def text(provenance: dict[str, Any], parameters: int) -> str:
    """The card of a model with so many parameters, as Markdown with a Hugging Face header."""
    scores: dict[str, float] = provenance["scores"]
    figures = [f"| {_NAMES.get(name, name)} | {_figure(value)} |" for name, value in scores.items()]
    sources = [
        f"| {entry.path} | {entry.licence} | {'all' if entry.pretrain else 'all but plain text'} |"
        for entry in corpus.SOURCES
    ]
    steps = ", ".join(
        f"{name} {count} ({provenance['minutes'][name]} minutes, {provenance['devices'][name]})"
        for name, count in reversed(provenance["steps"].items())
    )
    return "\n".join(
        [
            _HEAD.format(millions=parameters / 1e6, spent=_spent(provenance)) + "## Measured",
            "",
            _SEEN,
            "",
            "| what | value |",
            "| --- | --- |",
            *figures,
            "",
            f"Optimiser steps: {steps}.",
            "",
            "## Data",
            "",
            "| file | licence of its texts | stage |",
            "| --- | --- | --- |",
            *sources,
            _TAIL.format(tokens=provenance["pretraining_tokens"] / 1e6),
        ]
    )
