"""Makes the encoder's bundle from the data: train, calibrate, export, verify, describe. `figures.py` measures the prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

from router.evaluation import routing
from router.evaluation.intent import SCIENCES
from router.evaluation.measures import Estimate, bootstrap, share
from router.inference.bundle import MODEL, TOKENIZER, Bundle
from router.inference.encoder import Encoder
from router.inference.pool import InferencePool
from router.inference.tokens import WindowTokenizer
from router.signals.jailbreak import JailbreakSignal
from router.training.attacks import amid, safety_held_back
from router.training.card import model_card
from router.training.checkpoints import Checkpoints
from router.training.data import SOURCES, read, recorded_models
from router.training.encoder import Model, load_pretrained
from router.training.examples import ATTACKS, CLASSES, KINDS, LABELS, LEVELS, Example, is_for_calibration, typos
from router.training.export import Calibration, export, provenance, run, verify, write_bundle
from router.training.figures import candidates_found, logistic, prompt_figures, span_estimates, strictest
from router.training.prompts import Group, read_groups
from router.training.train import Recipe, fit, predict

NAME, VERSION = "minilm-signals", "3"
CHECKPOINT = "training.pt"
TRAINING_TOKENS, SERVING_TOKENS = 128, 128
_MAX_EVERYDAY_IN_SCIENCE = 0.01
_MAX_FALSE_ALARMS = 0.01
_MAX_ALARMED_LOOKALIKES = 0.02
_MAX_LET_THROUGH = 0.04
"""The share of prompts whose answer may not be kept that count as storable; below the 5% of the target, because few calibrate."""
_VERIFIED_TEXTS = 300


def make(
    data: Path, out: Path, threads: int, without: frozenset[str], say: Callable[[str], None], recipe: Recipe | None = None
) -> None:
    """Write a whole bundle into `out`. `without` names the data sets that are left out, by folder."""
    torch.set_num_threads(threads)
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    encoder, tokenizer = load_pretrained()
    (out / TOKENIZER).write_bytes(tokenizer)
    train, held_back = read(data, without)
    models = recorded_models(data)
    groups = read_groups(data)
    known = [group for group in groups if not group.is_held_back]
    say(f"{len(train)} texts and {len(known)} groups to train on, {len(held_back)} and {len(groups) - len(known)} held back")
    checkpoints = Checkpoints(out / CHECKPOINT, (recipe, [e.text for e in train], known), say)
    reader = WindowTokenizer(out / TOKENIZER, TRAINING_TOKENS)
    model = fit(encoder, train, known, len(models), reader, recipe, checkpoints, say)
    finish(model, data, out, train, held_back, groups, tokenizer, recipe, without, say)
    checkpoints.remove()


def finish(
    model: Model, data: Path, out: Path, train: Sequence[Example], held_back: Sequence[Example], groups: Sequence[Group],
    tokenizer: bytes, recipe: Recipe, without: frozenset[str], say: Callable[[str], None],
) -> None:  # fmt: skip
    """Calibrate, export, measure and describe a trained model."""
    reader = WindowTokenizer(out / TOKENIZER, SERVING_TOKENS)
    for_calibration = [example for example in held_back if is_for_calibration(example.text)]
    calibration, thresholds = calibrate(model, for_calibration, reader)
    say(f"{calibration}, {thresholds}")
    faster = export(model, calibration, out / MODEL)
    development = [example for example in held_back if example.spans is not None or not is_for_calibration(example.text)]
    models = recorded_models(data)
    facts: dict[str, object] = {
        "name": NAME,
        "version": VERSION,
        "thresholds": thresholds,
        "max_tokens": SERVING_TOKENS,
        "attacks": list(ATTACKS),
        "personal": list(KINDS),
        "cacheability": list(CLASSES),
        "complexity": list(LEVELS),
        "models": list(models),
        "calibration": asdict(calibration),
        "recipe": asdict(recipe),
        **provenance(data, SOURCES, without),
    }
    trained_on = [example.text for example in train]
    trained_on += [line.text for group in groups if not group.is_held_back for line in (*group.same, *group.different)]
    write_bundle(out, tokenizer, trained_on, LABELS, facts, "")  # complete enough to be served and measured
    metrics = {
        **measure(out / MODEL, model, development, reader, thresholds, models, _table(train)),
        **prompt_figures(out / MODEL, development, reader, thresholds),
        **candidates_found(out / MODEL, [group for group in groups if group.is_held_back], [e.text for e in train], reader),
        **{f"int8_times_faster_at_{tokens}_tokens": Estimate(times, times, times) for tokens, times in faster.items()},
    }
    for name, estimate in metrics.items():
        say(f"{name:32} {estimate}")
    facts["metrics"] = {name: [round(part, 4) for part in (e.value, e.low, e.high)] for name, e in metrics.items()}
    write_bundle(out, tokenizer, trained_on, LABELS, facts, model_card(facts, metrics))
    say(f"wrote {out}")


def calibrate(model: Model, examples: Sequence[Example], reader: WindowTokenizer) -> tuple[Calibration, dict[str, float]]:
    """Temperatures by maximum likelihood, and thresholds with at most 1% false alarms.

    The intent's threshold is the lowest of 0.40, 0.45 ... 0.95 at which at most 1% of everyday texts are classified as a science.
    The attack's is the lowest of 0.50, 0.55 ... 0.95 at which at most 1% of harmless texts are mistaken for an attack.
    """
    exam = [example for example in examples if example.source == "mmlu_pro"]
    prompts = [example for example in examples if example.source == "complexity"]
    found = predict(model, [example.text for example in exam], reader)
    natural = predict(model, [example.text for example in prompts], reader)
    truth = torch.tensor([LABELS.index(example.label) for example in (*exam, *prompts)])
    intents = torch.cat([found.intent, natural.intent])
    outcomes = torch.tensor([example.outcomes for example in exam])
    known = ~outcomes.isnan()
    means = tuple(round(mean, 4) for mean in found.outcomes.mean(0).tolist())
    levels = torch.tensor([example.level for example in prompts])
    classed = [example for example in examples if example.classes]
    kept = predict(model, [example.text for example in classed], reader).cacheability
    classes = torch.tensor([example.classes for example in classed])
    calibration = Calibration(
        _temperature(lambda scale: F.cross_entropy(intents / scale, truth)),
        _temperature(
            lambda scale: F.binary_cross_entropy(
                Calibration(1.0, scale, means).predicted_accuracy(found.outcomes)[known], outcomes[known]
            )
        ),
        means,
        _temperature(lambda scale: F.cross_entropy(natural.complexity / scale, levels)),
        tuple(logistic(kept[:, place], classes[:, place]) for place in range(len(CLASSES))),
    )
    everyday = predict(model, [e.text for e in examples if e.source in ("clinc150", "banking77")], reader)
    talk = (everyday.intent / calibration.intent).softmax(-1).numpy()
    science = _lowest(0.40, lambda threshold: _in_science(talk, threshold).mean() <= _MAX_EVERYDAY_IN_SCIENCE)
    alike = predict(model, [e.text for e in examples if e.source == "safety" and e.attack == 0], reader)
    harmless, lookalikes = (
        some.softmax(-1)[:, 1:].amax(-1).numpy() for some in (torch.cat([everyday.attack, found.attack]), alike.attack)
    )
    alarm = _lowest(
        0.50,
        lambda threshold: (
            (harmless >= threshold).mean() <= _MAX_FALSE_ALARMS and (lookalikes >= threshold).mean() <= _MAX_ALARMED_LOOKALIKES
        ),
    )
    storable = strictest(calibration.storable(kept).numpy(), classes.numpy() > 0, _MAX_LET_THROUGH)
    return calibration, {"intent": science, "jailbreak": alarm, "pii": 0.5, **dict.fromkeys(CLASSES, storable)}


def _table(examples: Sequence[Example]) -> NDArray[np.float64]:
    """(labels, models) float64: each model's accuracy in each category, the baseline of routing by category alone."""
    rows = [np.array([e.outcomes for e in examples if e.outcomes and e.label == label]) for label in LABELS]
    return np.stack([np.nanmean(outcomes, axis=0) for outcomes in rows])


def _lowest(start: float, is_enough: Callable[[float], bool]) -> float:
    tried = map(float, np.arange(start, 0.96, 0.05))
    return next((round(threshold, 2) for threshold in tried if is_enough(threshold)), 0.95)


def _temperature(loss_at: Callable[[Tensor], Tensor]) -> float:
    scale = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = loss_at(scale.exp())
        value.backward()
        return value

    optimizer.step(loss)
    return round(float(scale.detach().exp()), 4)


def _in_science(probabilities: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    sciences = [LABELS.index(name) for name in SCIENCES]
    return np.isin(probabilities.argmax(1), sciences) & (probabilities.max(1) >= threshold)


def measure(
    path: Path, model: Model, examples: Sequence[Example], reader: WindowTokenizer, thresholds: Mapping[str, float],
    models: Sequence[str], table: NDArray[np.float64],
) -> Mapping[str, Estimate]:  # fmt: skip
    """Measure the int8 graph, as it is served, on texts that were used for neither training nor calibration."""
    exam = [example for example in examples if example.source == "mmlu_pro"]
    texts = [example.text for example in exam]
    truth = np.array([LABELS.index(example.label) for example in exam])
    in_float, served = predict(model, texts, reader), run(path, texts, reader)
    cosine = verify(path, in_float.vector[:_VERIFIED_TEXTS], texts[:_VERIFIED_TEXTS], reader)
    chance = random.Random(0)  # noqa: S311 - reproducible on purpose
    mistyped = run(path, [typos(text, chance) for text in texts], reader)["intent"].argmax(1)
    everyday = [example.text for example in examples if example.source in ("clinc150", "banking77")]
    talk = run(path, everyday, reader)
    figures = {
        **bootstrap(truth, served["intent"].astype(np.float64)),
        "accuracy_float32": share(int((in_float.intent.argmax(-1).numpy() == truth).sum()), len(exam)),
        "agreement_with_typos": share(int((mistyped == served["intent"].argmax(1)).sum()), len(exam)),
        "everyday_in_science": share(int(_in_science(talk["intent"], thresholds["intent"]).sum()), len(everyday)),
        "int8_vector_cosine": Estimate(cosine, cosine, cosine),
    }
    for source in ("presidio", "pii_prompts"):
        figures |= span_estimates(path, source, [example for example in examples if example.source == source])
    outcomes = np.array([example.outcomes for example in exam])
    figures |= _routing(outcomes, served["outcomes"].astype(np.float64), models)
    by_category = _routing(outcomes, table[truth], models)
    figures |= {f"{name}, by the category alone": estimate for name, estimate in by_category.items()}
    return figures | _safety(path, examples, thresholds["jailbreak"])


def _routing(outcomes: NDArray[np.float64], right: NDArray[np.float64], models: Sequence[str]) -> dict[str, Estimate]:
    """APGR of three pairs, hard against easy questions, and the accuracy of seven models at a fifth of the best one's cost."""
    known, expected = routing.by_name(models, outcomes), routing.by_name(models, right)
    figures = {}
    for small, large in routing.PAIRS:
        rows = ~np.isnan(known[small]) & ~np.isnan(known[large])
        gain = (expected[large] - expected[small])[rows]
        name = f"apgr {small} {large}"
        figures[name] = routing.gap_recovered_with_interval(known[small][rows], known[large][rows], gain)
    area = routing.hard_or_easy(outcomes, right)
    figures["hard_or_easy_roc_area"] = Estimate(area, area, area)
    names = list(routing.COSTS)
    columns = [list(models).index(name) for name in names]
    complete = ~np.isnan(outcomes[:, columns]).any(axis=1)
    costs = np.array(list(routing.COSTS.values()))
    points = routing.curve(outcomes[complete][:, columns], right[complete][:, columns], costs)
    best = int(np.argmax(outcomes[complete][:, columns].mean(0)))
    reached = routing.accuracy_at(points, 0.2 * costs[best]) / float(outcomes[complete][:, columns[best]].mean())
    figures["accuracy_at_fifth_of_price"] = Estimate(reached, reached, reached)
    return figures


def _safety(path: Path, examples: Sequence[Example], threshold: float) -> dict[str, Estimate]:
    """Shares of attacks found, and of harmless prompts mistaken for attacks."""
    own, chance = safety_held_back(), random.Random(0)  # noqa: S311 - reproducible on purpose
    own += [e for e in examples if e.source == "safety"]
    jailbreaks = [e.text for e in examples if e.source == "jailbreak"] + [e.text for e in own if e.attack == 1]
    exam = [e.text for e in examples if e.source == "mmlu_pro"]
    fillers = [text for text in exam if 150 < len(text) < 600]
    texts = {
        "jailbreaks_found": jailbreaks,
        "jailbreaks_found_amid_other_text": [
            amid(text, fillers, chance) for text in jailbreaks if len(text) < 400 for _ in range(3)
        ],
        "harmful_found": [e.text for e in examples if e.source == "advbench"],
        "undisguised_harm_found": [e.text for e in own if e.attack == 2],
        "lookalikes_alarmed": [e.text for e in own if e.attack == 0],
        "everyday_alarmed": [e.text for e in examples if e.source in ("clinc150", "banking77")],
        "exam_questions_alarmed": exam,
        "four_exam_questions_in_one_alarmed": [" ".join(chance.sample(fillers, 4)) for _ in range(300)],
    }
    bundle = Bundle.load(path.parent)
    signal = JailbreakSignal(Encoder(bundle, InferencePool(1, 1), max_windows=64), bundle)
    figures = {}
    for name, some in texts.items():
        hits = sum(float(signal.run(text).probabilities[1:].max()) >= threshold for text in some)
        figures[name] = share(hits, len(some))
    return figures
