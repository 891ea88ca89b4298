"""Writes the model cards: what the model is, its training data, its measured quality, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.evaluation.measures import Estimate

Facts = Mapping[str, Any]
"""The fields of the manifest."""


def model_card(facts: Facts, metrics: Mapping[str, Estimate]) -> str:
    """The encoder's model card in Markdown, from the fields of the manifest."""
    intervals = {name: f"{e.low:.4f} to {e.high:.4f}" if e.low < e.high else "" for name, e in metrics.items()}
    figures = "\n".join(f"| {name} | {e.value:.4f} | {intervals[name]} |" for name, e in metrics.items())
    left_out = f"Left out on purpose: {', '.join(facts['without'])}." if facts["without"] else ""
    return f"""# {facts["name"]} {facts["version"]}

all-MiniLM-L6-v2 (Apache-2.0), fine-tuned on several tasks at once, as one int8 ONNX graph. One pass gives the unit sentence
vector (384), and calibrated probabilities of 14 categories, of a right answer by each of {len(facts["models"])} recorded
models, of an attack, and of personal data by token. Made by `make train`; every number of the recipe is in manifest.json.

**What is read**: the last user message; for rules that block, all that the model will read. Categories and predicted accuracy are
of one pass: of texts over {facts["max_tokens"]} tokens the start and the end are read, the middle is not. Attacks and
personal data are looked for in windows of the whole text.
**Language**: English; other languages fall below the threshold more often and then go to the default, visibly.

## Trained on

{_data_rows(facts)}
| subjects in everyday phrasings, attacks and what looks like them, written for this project | Apache-2.0 | `router/training/` |

{left_out}
15% of every set, split by how a text begins, is held back: a third of that sets temperatures and thresholds, the figures are of
the rest (of personal data, all of it). Everyday talk (CLINC150, BANKING77) is `other`, so that small talk does not wake a large
model.

## Measured, on the int8 graph as it is served

| figure | value | 95% interval |
|---|---|---|
{figures}

`accuracy`, `macro_f1`, `calibration_error` and `agreement_with_typos` (the same category after one typing error in 18 characters)
are on MMLU-Pro questions without their options; `calibration_error_by_chance` is what a perfectly calibrated model would show
on so few of them. `everyday_in_science` is the share of everyday texts that land in a science at
the default threshold of {facts["thresholds"]["intent"]}. `apgr SMALL LARGE`: the mean share of the gap between two models that is
won by sending the questions with the largest expected gain to the large one; 0.5 is chance. `hard_or_easy_roc_area`: questions
that at most a quarter of the models got right against those that at least three quarters did. `accuracy_at_fifth_of_price`: what
choosing among seven models reaches at a fifth of the best one's price, as a share of the best one's accuracy. `..._found` and
`..._alarmed`: attacks and harmless texts at the default threshold of {facts["thresholds"]["jailbreak"]}; the look-alikes are
prompts of our own that were not trained on. `pii_*` want both ends of a span and its kind to be right, spans of one kind
that only space parts being one; no held-back sentence shares its template with one that was trained on. Rows `by the category
alone` are of a table of how often each model is right in the question's true category: the baseline. `int8_times_faster`: than
the same graph in float32, one thread, taking turns.

Rerun with `semantic-router eval intent | routing | jailbreak | pii`.

## Limits

- The categories are those of exams. Neighbours are confused most: physics with engineering and chemistry, health with biology,
  business with economics.
- A question about two subjects gets one label.
- The recorded models are of 2024, and answered exam questions. Whoever maps a model of today to one of them (`quality_profile`)
  borrows its pattern of strengths, not its level; what the same question needs in thinking is not told.
- Attacks in other languages or in pictures are not seen. Harmful requests without a disguise are told by AdvBench's
  examples alone. Few held-back attacks exist, and the intervals say so.
- Personal data is told by synthetic sentences. Cards, IBANs, addresses of mail and machines are also told by form, names are told
  well; where an address ends and a place begins is not.
"""


def verifier_card(facts: Facts) -> str:
    """The verifier's model card."""
    left_out = (
        f"Left out on purpose: {', '.join(facts['without'])}."
        if facts["without"]
        else "Quora's texts are licensed for non-commercial use. Who must not use a model that saw them makes one without:\n"
        '`make train ARGS="--without gptcache_qqp,synth_guard"`.'
    )
    return f"""# {facts["name"]} {facts["version"]}

all-MiniLM-L6-v2 (Apache-2.0), fine-tuned as a cross-encoder: it reads the question that is asked and the one that is stored, and
gives the probability that one answer fits both, as one int8 ONNX graph. Made by `make train`.

**What is read**: both questions whole, up to {facts["max_tokens"]} tokens together. Longer pairs are not judged, so not served.
**Language**: English.

## Trained on

{_data_rows(facts)}
| question pairs that look like prompts, written for this project | Apache-2.0 | `router/training/pairs.yaml` |

{left_out}

## Measured, on the int8 graph as it is served

{_pair_rows(facts["metrics"])}

`qqp`: natural question pairs, split by connected component. `swaps`: made swaps of numbers, names, negations and order, and
harmless edits. `paws`: the same words in another order. `negation`: sentences and their denials. `prompts`: of families of
subjects in pairs.yaml that were not trained on. The probability is calibrated on `qqp`. How often the cache as a whole is
wrong, guards and similarity included: `semantic-router eval cache`.

{_without_quora(facts)}## Limits

- Labels of natural question pairs are noisy: about one in ten is disputable, on either side.
- Word order in long sentences (`paws`) stays its weak side; the guard `order` stands beside it for that.
- It knows questions. Of long texts that differ in a detail it has seen few.
"""


def _without_quora(facts: Facts) -> str:
    if "metrics_without_quora" not in facts:
        return ""
    return f"""## The variant without Quora's texts

{_pair_rows(facts["metrics_without_quora"])}

"""


def _pair_rows(metrics: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        f"| {name} | {figures['pairs']:.0f} | {figures['roc_area']:.3f} | {figures['recall_at_90']:.2f} | "
        f"{figures['recall_at_95']:.2f} | {figures['lost_to_int8']:.4f} |"
        for name, figures in metrics.items()
    ]
    head = "| held-back pairs | number | ROC area | recall at 90% precision | at 95% | ROC area lost to int8 |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _data_rows(facts: Facts) -> str:
    rows = [f"| {item['name']} | {item['licence']} | `{item['sha256'][:16]}` |" for item in facts["data"]]
    return "\n".join(["| data | licence | sha256 |", "|---|---|---|", *rows])
