"""Writes the model cards: what the model is, its training data, its measured quality, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.evaluation.measures import Estimate

Facts = Mapping[str, Any]
"""The content of the manifest, which was written just before."""

_LIMITS = """## Limits

- The model mostly confuses neighbouring categories: physics with engineering and chemistry, health with biology, business with
  economics. A prompt about two subjects gets one label.
- Levels and classes are judgements of the people who wrote the prompts. A prompt that refers to earlier turns is read without
  them.
- The recorded models are from 2024 and answered exam questions. Mapping a model of today to one of them (`quality_profile`) uses
  its pattern of strengths, not its level.
- Attacks in pictures are not detected, those in languages other than English less often: few were trained on. The intervals are
  wide, because few attacks are held back.
- Personal data: card numbers, IBANs, e-mail and network addresses are also detected by their form. The border between an address
  and a place is learnt less well than names are.
"""


def model_card(facts: Facts, metrics: Mapping[str, Estimate]) -> str:
    """The card as Markdown, made from the facts in the manifest."""
    intervals = {name: f"{e.low:.4f} to {e.high:.4f}" if e.low < e.high else "" for name, e in metrics.items()}
    figures = "\n".join(f"| {name} | {e.value:.4f} | {intervals[name]} |" for name, e in metrics.items())
    left_out = f"Left out on purpose: {', '.join(facts['without'])}." if facts["without"] else ""
    return f"""# {facts["name"]} {facts["version"]}

all-MiniLM-L6-v2 (Apache-2.0), fine-tuned on several tasks at once, as one int8 ONNX graph. One pass gives the unit sentence
vector (384), and calibrated probabilities: of 14 categories, of four levels of complexity, of what may keep an answer from being
cached (personal, timely, variety), of an attack, of personal data by token, and of a right answer by each of
{len(facts["models"])} recorded models (the predicted accuracy). `make train` makes it; manifest.json has the recipe.

**Input**: the last user message; for rules that block, all that the model will read. Categories and predicted accuracy come from
one pass, which reads the start and the end of texts over {facts["max_tokens"]} tokens, and not the middle. Attacks and personal
data are detected in windows of the whole text.
**Language**: English. Texts in other languages fall below the threshold more often; the default then serves, and the answer's
headers say so.

## Trained on

{_data_rows(facts)}
| prompts of all kinds, written for this project | Apache-2.0 | `prompt_pairs`, `router/training/` |

{left_out}
15% of every set is held back. The split goes by the beginning of a text. A third of what is held back sets temperatures and
thresholds; the rest gives the figures (for personal data, all of it). Everyday talk (CLINC150, BANKING77) is labelled `other`, so
that small talk does not go to a large model.

## Measured, on the int8 graph as it is served

| figure | value | 95% interval |
|---|---|---|
{figures}

- `accuracy`, `macro_f1`, `calibration_error` and `agreement_with_typos` (the same category after one typing error in 18
  characters) are measured on MMLU-Pro questions without their options.
- `calibration_error_by_chance`: the error that a perfectly calibrated model would show on so few questions.
- `everyday_in_science`: the share of everyday texts in a science at the default threshold of {facts["thresholds"]["intent"]}.
- `apgr SMALL LARGE`: the questions with the largest expected gain go to the large model; the figure is the mean share of the gap
  between the two models that this recovers. A random choice gives 0.5.
- `hard_or_easy_roc_area`: questions that at most a quarter of the models answered right, against those that at least three
  quarters did.
- `accuracy_at_fifth_of_price`: the accuracy of a selection among seven models at a fifth of the best model's cost, as a share of
  the best model's accuracy.
- Rows `by the category alone` are the baseline: a table of how often each model is right in the question's true category.
- `..._found` and `..._alarmed`: attacks found, and harmless texts taken for attacks, at the default threshold of
  {facts["thresholds"]["jailbreak"]}. The look-alikes are prompts of our own that were not trained on.
- `prompts_...`, `complexity_...`: on held-back hand-written prompts. `complexity_roc_area_3_4_from_1_2`: demanding from simple.
- `storable_kept`, `not_storable_let_through`: prompts whose answer may be kept for any asker, and the others, that the default
  threshold of {facts["thresholds"]["personal"]} takes for storable. `..._at_5_percent_let_through`: at another threshold.
- `partner_among_five_nearest_above_F`: held-back prompts whose partner is one of the five nearest of all held-back anchors and
  10,000 other texts, with a similarity of at least F.
- `..._at_1_percent_false_alarms`: found at the threshold at which 1% of the harmless look-alikes beside them are alarmed.
- `pii_*`: on Presidio's sentences and on prompts. A span counts as right if both ends and the kind are right. Spans of one kind
  that only white space separates count as one. No held-back sentence of Presidio's shares its template with a trained one.
- `int8_times_faster`: compared with the same graph in float32, on one thread, taking turns.

Rerun with `semantic-router eval intent | routing | jailbreak | pii`.

{_LIMITS}"""


def verifier_card(facts: Facts) -> str:
    """The verifier's card as Markdown."""
    left_out = (
        f"Left out on purpose: {', '.join(facts['without'])}."
        if facts["without"]
        else "Quora's texts are licensed for non-commercial use; so is this model."
    )
    return f"""# {facts["name"]} {facts["version"]}

all-MiniLM-L6-v2 (Apache-2.0), fine-tuned as a cross-encoder, as one int8 ONNX graph: {len(facts["recipe"]["seeds"])} towers that
share their embeddings, and whose logits are averaged. It reads the new question and the stored one, or two conversations, and
gives the probability that one answer fits both. `make train` makes it.

**Input**: both questions whole, up to {facts["max_tokens"]} tokens together. Longer pairs are not judged, and so not served.
**Language**: English.

## Trained on

{_data_rows(facts)}
| prompts and conversations, written for this project | Apache-2.0 | `prompt_pairs`, `conversations`, `router/training/` |

{left_out}

## Measured, on the int8 graph as it is served

{_pair_rows(facts["metrics"])}

- `groups`: prompts that look alike, split by group. The probability is calibrated on other held-back groups.
- `conversations`: the same for conversations.
- `qqp`: natural question pairs of Quora, of which none was trained on.
- `swaps`: generated swaps of numbers, names, negations and order in Quora's questions, and harmless edits.
- `paws`: the same words in another order.
- `negation`: sentences and their denials.
- `prompts`: pairs from families of subjects in pairs.yaml that were not trained on.

`semantic-router eval cache` measures how often the cache as a whole is wrong, with similarity and lexical checks.

## Limits

- Labels of natural question pairs (`qqp`) are noisy: about one in ten is disputable, on either side.
- Word order in long sentences (`paws`) is its weakness.
- It has seen few texts of over a hundred words that differ in a detail.
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
