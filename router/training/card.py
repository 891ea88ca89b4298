"""The model card: what the model is, what it was made from, how good it was measured to be, what it cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.evaluation.measures import Estimate


def model_card(facts: Mapping[str, Any], metrics: Mapping[str, Estimate]) -> str:
    """Markdown, made from the facts that stand in the manifest."""
    data = "\n".join(f"| {item['name']} | {item['licence']} | `{item['sha256'][:16]}` |" for item in facts["data"])
    figures = "\n".join(f"| {name} | {e.value:.4f} | {e.low:.4f} to {e.high:.4f} |" for name, e in metrics.items())
    return f"""# {facts["name"]} {facts["version"]}

all-MiniLM-L6-v2 (Apache-2.0), fine-tuned with a two-layer head on 14 categories, as one int8 ONNX graph: one pass gives the unit
sentence vector (384) and calibrated probabilities. Made by `make train`; every number of the recipe is in manifest.json.

**What is read**: the last user message. Of texts over {facts["max_tokens"]} tokens the start and the end are read, the middle is
not. **Language**: English; other languages fall below the threshold more often and then go to the default, visibly.

## Trained on

| data | licence | sha256 |
|---|---|---|
{data}
| subjects in everyday phrasings, written for this project | Apache-2.0 | in `router/training/` |

15% of every set, split by how a text begins, is held back: a third of that sets
temperature and threshold, the figures are of the rest.
Everyday talk (CLINC150, BANKING77) is `other`, so that small talk does not wake a large model.

## Measured, on the int8 graph as it is served

| figure | value | 95% interval |
|---|---|---|
{figures}

`accuracy`, `macro_f1` and `calibration_error` are on MMLU-Pro questions without their options. `everyday_in_science` is
the share of everyday texts that land in a science at the default threshold of {facts["threshold"]}. Rerun with
`semantic-router eval intent`.

## Limits

- The categories are those of exams. Neighbours are confused most: physics with engineering and chemistry, health with biology,
  business with economics.
- A question about two subjects gets one label.
- It says what a question is about, not how hard it is.
"""
