"""From labelled pairs to the table by which `max_false_hit_rate` chooses a similarity threshold."""

from __future__ import annotations

import json
from pathlib import Path

from router.core.guards import GUARDS
from router.evaluation.cache import judge
from router.evaluation.measures import clopper_pearson
from router.signals.bundle import MODEL, Bundle, sha256_of

PAIRS = "gptcache_qqp/dev.jsonl.gz"
"""Question pairs that nothing of ours was trained on. The text is Quora's, for non-commercial use; only counts are kept."""


def calibrate(data: Path, folder: Path, out: Path) -> int:
    """Write the table; the number of pairs it rests on. A point for every threshold from 0.70 to 0.99."""
    bundle, path = Bundle.load(folder), data / PAIRS
    pairs = judge(path, bundle, tuple(GUARDS))
    different, same = [pair for pair in pairs if not pair.is_same], [pair for pair in pairs if pair.is_same]
    points = []
    for step in range(70, 100):
        threshold = step / 100
        false, right = (sum(pair.is_served(threshold) for pair in some) for some in (different, same))
        at_most = clopper_pearson(false, len(different))
        points.append(
            {"threshold": threshold, "false_hit_rate_at_most": round(at_most, 6), "recall": round(right / len(same), 4)}
        )
    document = {
        "encoder_sha256": bundle.sha256[MODEL],
        "guards": list(GUARDS),
        "data": PAIRS,
        "data_sha256": sha256_of(path),
        "different_pairs": len(different),
        "same_pairs": len(same),
        "points": points,
    }
    out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return len(pairs)
