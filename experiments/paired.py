"""Differences of two arms seed by seed, with intervals and tests."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.records import signed, standard_error


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """Metric by metric."""
    return {metric: ours[metric] - theirs[metric] for metric in theirs if metric in ours}


def compare(
    name: str, ours: Mapping[int, Mapping[str, float]], theirs: Mapping[int, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """By metric: the mean difference over the seeds both have, its 95 % interval by Student's t, and p of the
    paired test; of the attributes Holm's p, over those of one comparison. Nothing for one seed.
    """
    from scipy import stats

    seeds = sorted(set(ours) & set(theirs))
    if len(seeds) < 2:
        return []
    compared: list[dict[str, Any]] = []
    for metric in difference(ours[seeds[0]], theirs[seeds[0]]):
        gains = [ours[seed][metric] - theirs[seed][metric] for seed in seeds]
        mean, error = statistics.fmean(gains), standard_error(gains)
        half = float(stats.t.ppf(0.975, len(gains) - 1)) * error
        p = float(2 * stats.t.sf(abs(mean) / error, len(gains) - 1)) if error else 1.0
        compared.append(
            {
                "comparison": name,
                "metric": metric,
                "seeds": seeds,
                "mean": round(mean, 2),
                "interval": [round(mean - half, 2), round(mean + half, 2)],
                "p": round(p, 4),
            }
        )
    held = 0.0
    ranked = sorted((one for one in compared if "overall" not in one["metric"]), key=lambda one: one["p"])
    for rank, one in enumerate(ranked):
        held = max(held, min(1.0, (len(ranked) - rank) * one["p"]))
        one["p_holm"] = round(held, 4)
    return compared


def table(compared: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons as Markdown."""
    lines = ["| comparison | metric | seeds | difference | 95 % | p | Holm |", "|---" * 7 + "|"]
    for one in compared:
        low, high = (signed(bound) for bound in one["interval"])
        cells = (one["comparison"], one["metric"], len(one["seeds"]), signed(one["mean"]), f"{low} … {high}")
        lines.append("| " + " | ".join(map(str, (*cells, one["p"], one.get("p_holm", "–")))) + " |")
    return "\n".join(lines)
