"""How far repetitions of a run lie apart, and what becomes of a claim when all of them are asked.

The interval of a score tells how much it would move with other images. Here everything that is trained or drawn was
repeated from another seed, on the same images: the number would move as much with another training.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import Run
from wsseg_core.evaluate.claims import Claim, Relation
from wsseg_core.evaluate.metrics import Interval, Scores, bootstrap_sums, mean_iou, percentile_interval
from wsseg_core.evaluate.verdicts import Outcome, withheld

SeedScores = Mapping[int, Mapping[str, Scores]]  # by seed, then by row
NOT_MEASURED = Interval(math.nan, math.nan, math.nan)
WORST_FIRST = (Outcome.FAILS, Outcome.UNDECIDED, Outcome.HOLDS)


def read_seeds(
    runs: Sequence[Run], read: Callable[[Run], Mapping[str, Scores]]
) -> tuple[dict[int, Mapping[str, Scores]], dict[int, str]]:
    """Read the scores of every repetition that was run to its end under the settings of today.

    Args:
        runs: repetitions of one profile.
        read: gives the scores of a run by row, such as `stages.stage_scores`.

    Returns:
        Scores by seed, and why each other seed is left out: one line, which names the remedy.
    """
    finished: dict[int, Mapping[str, Scores]] = {}
    left_out: dict[int, str] = {}
    for run in runs:
        try:
            scores = read(run)
            first = next(iter(finished), run.seed)
            _check_alike(run, scores, first, finished.get(first, scores))
            finished[run.seed] = scores
        except WorkbookError as error:
            left_out[run.seed] = str(error)
    return finished, left_out


def _check_alike(run: Run, scores: Mapping[str, Scores], seed: int, others: Mapping[str, Scores]) -> None:
    ours, theirs = _conditions(scores), _conditions(others)
    unlike = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    if unlike:
        raise WorkbookError(f"{run.folder}: {unlike[0]} was not scored as with seed {seed}; run that seed again")


def _conditions(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Everything about the rows that repetitions share: the images and all details but the seed."""
    return {name: (row.image_ids, {**row.details, "seed": None}) for name, row in scores.items()}


def spread_table(by_seed: SeedScores) -> pd.DataFrame:
    """Mean IoU of every row with every seed.

    Args:
        by_seed: what `read_seeds` gives; at least one seed.

    Returns:
        Columns `row`, `split`, `protocol`, `crf`, one a seed, `mean`, `lowest`, `highest` (percent), and `deviation`,
        the sample standard deviation in points; NaN of one seed.
    """
    rows = []
    for name, scores in next(iter(by_seed.values())).items():
        values = {f"seed {seed}": scores_of[name].mean_iou for seed, scores_of in by_seed.items()}
        numbers = list(values.values())
        deviation = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan
        row = {"row": name} | {key: scores.details[key] for key in ("split", "protocol", "crf")} | values
        row |= {"mean": float(np.mean(numbers)), "lowest": min(numbers), "highest": max(numbers)}
        rows.append(row | {"deviation": deviation})
    return pd.DataFrame(rows)


def pooled_figures(by_seed: SeedScores, samples: int = 1000) -> dict[str, dict[str, Any]]:
    """The mean over seeds of every row, for `tables.write_figures`.

    Args:
        by_seed: what `read_seeds` gives; at least one seed.
        samples: resamples of the bootstrap; see `judge_seeds`.

    Returns:
        By row: `value`, percent, and its 95 % interval over images, `low` and `high`; `split` and `protocol`.
    """
    figures = {}
    for name, scores in next(iter(by_seed.values())).items():
        mean = float(np.mean([scores_of[name].mean_iou for scores_of in by_seed.values()]))
        interval = percentile_interval(mean, _draws(name, by_seed, samples).mean(1))
        figures[name] = asdict(interval) | {key: scores.details[key] for key in ("split", "protocol")}
    return figures


def mean_figure(figures: Sequence[Mapping[str, float]]) -> Interval:
    """The mean of one headline number over repetitions on the same images; its interval is the mean of theirs.

    NaN where one of them, None in JSON, could not be measured.
    """
    values = np.array([[figure[end] for end in ("value", "low", "high")] for figure in figures], float)
    return Interval(*map(float, values.mean(0)))


@dataclass(frozen=True)
class SpreadVerdict:
    """What became of a claim over all seeds.

    Attributes:
        claim: the statement.
        outcome: see `judge_seeds`.
        rival: the scores that decided.
        by_seed: left - rival with every seed, points of mean IoU.
        pooled: their mean, with its 95 % interval; NaN when not measured.
    """

    claim: Claim
    outcome: Outcome
    rival: str = ""
    by_seed: Mapping[int, float] = field(default_factory=dict)
    pooled: Interval = NOT_MEASURED


def judge_seeds(claim: Claim, by_seed: SeedScores, *, samples: int = 1000) -> SpreadVerdict:
    """Decide a claim by all seeds at once.

    The statistic is the mean over seeds of the difference left - rival. Every resample of the bootstrap draws the same
    images for both sides and for all seeds, so that what makes an image hard cancels; the seeds themselves, which are
    few, are not resampled. In their place all of them must agree: a claim holds against a rival if the 95 % interval
    lies above 0 and so does the difference with every seed, fails if all of that lies below 0, and is undecided
    otherwise. Of several rivals the one that speaks loudest against the claim decides. With one seed this is
    `verdicts.judge`. It is for claims that compare scores without a margin, as all of `LAST_STAGES` do.

    Raises:
        WorkbookError: left and right were not measured on the same images.
    """
    names = (claim.left, *claim.right)
    if any(name not in scores for scores in by_seed.values() for name in names):
        return SpreadVerdict(claim, Outcome.NOT_MEASURED)
    verdicts = [_against(claim, rival, by_seed, samples) for rival in claim.right]
    return min(verdicts, key=lambda verdict: (WORST_FIRST.index(verdict.outcome), verdict.pooled.low))


def _against(claim: Claim, rival: str, by_seed: SeedScores, samples: int) -> SpreadVerdict:
    differences = {}
    for seed, scores in by_seed.items():
        left, right = scores[claim.left], scores[rival]
        if any(left.details[key] != right.details[key] for key in ("split", "classes", "protocol", "void")):
            raise WorkbookError(f"{claim.left!r} and {rival!r} were not scored alike; compare rows of one table")
        differences[seed] = left.mean_iou - right.mean_iou
    draws = _draws(claim.left, by_seed, samples) - _draws(rival, by_seed, samples)
    pooled = percentile_interval(float(np.mean(list(differences.values()))), draws.mean(1))
    return SpreadVerdict(claim, _outcome(claim.relation, differences, pooled), rival, differences, pooled)


def _draws(name: str, by_seed: SeedScores, samples: int) -> np.ndarray:
    """Mean IoU of every resample with every seed, float64 (samples, seeds), in percent."""
    counts = np.stack([scores[name].confusions for scores in by_seed.values()], axis=1)  # (n, seeds, C+1, C+1)
    return mean_iou(bootstrap_sums(counts, samples, seed=0))


def _outcome(relation: Relation, differences: Mapping[int, float], pooled: Interval) -> Outcome:
    if pooled.high < 0 and max(differences.values()) < 0:
        return Outcome.FAILS
    if relation is Relation.UNBEATEN or (pooled.low > 0 and min(differences.values()) > 0):
        return Outcome.HOLDS
    return Outcome.UNDECIDED


def seeds_text(by_seed: SeedScores) -> str:
    """How many seeds there are, in words, for a caption."""
    if len(by_seed) == 1:
        return f"one seed only ({next(iter(by_seed))})"
    return f"{len(by_seed)} seeds ({', '.join(map(str, by_seed))})"


def claims_over_seeds(
    claims: Sequence[Claim], by_seed: SeedScores, samples: int = 1000, meaningful: bool = True
) -> pd.DataFrame:
    """One line a claim: the verdict over all seeds, and the differences that decided, in points of mean IoU.

    With `meaningful` false no claim that was measured gets a verdict.
    """
    rows = []
    for verdict in (judge_seeds(claim, by_seed, samples=samples) for claim in claims):
        claim, pooled = verdict.claim, verdict.pooled
        outcome = withheld(verdict.outcome, meaningful)
        row: dict[str, Any] = {"claim": claim.text, "verdict": str(outcome), "seeds": seeds_text(by_seed)}
        row |= {"left": claim.left, "against": verdict.rival or None}
        row |= {f"seed {seed}": verdict.by_seed.get(seed, math.nan) for seed in by_seed}
        rows.append(row | {"mean": pooled.value, "low": pooled.low, "high": pooled.high, "source": claim.source})
    return pd.DataFrame(rows)
