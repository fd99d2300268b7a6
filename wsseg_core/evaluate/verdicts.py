"""What becomes of a claim: verdicts come from the paired bootstrap alone, never from a reading of the table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from wsseg_core.base.files import write_json
from wsseg_core.evaluate.claims import CLAIMS, GOOD_IMAGE, Claim, Relation
from wsseg_core.evaluate.labels import row_label
from wsseg_core.evaluate.metrics import REQUIRED_DETAILS, Interval, Scores, paired_bootstrap, share_above

HALF = "half of the images"  # what a claim about good images is held against


class Outcome(StrEnum):
    """What the measurements say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"
    NO_VERDICT = "no verdict"  # measured with a profile whose numbers mean nothing


_WORDS = {
    Outcome.HOLDS: "yes, here it does",
    Outcome.FAILS: "no, not here",
    Outcome.UNDECIDED: "these images cannot tell",
    Outcome.NOT_MEASURED: "not measured",
    Outcome.NO_VERDICT: "not to be judged with this profile, whose numbers mean nothing",
}
_COLOURS = {
    Outcome.HOLDS: "#c6f6d5",
    Outcome.FAILS: "#fed7d7",
    Outcome.UNDECIDED: "#fefcbf",
    Outcome.NOT_MEASURED: "#edf2f7",
    Outcome.NO_VERDICT: "#edf2f7",
}


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: the statement.
        outcome: what the paired bootstrap says.
        rival: the scores that decided: the one that speaks loudest against the claim.
        difference: left - rival, points of mean IoU, or for good images points below half, with its 95 % interval; None
            when not measured.
        missing: names of the scores that were not measured.
        details: split, protocol and the like of the left side.
    """

    claim: Claim
    outcome: Outcome
    rival: str = ""
    difference: Interval | None = None
    missing: tuple[str, ...] = ()
    details: Mapping[str, object] | None = None


def judge(claim: Claim, scores: Mapping[str, Scores], *, samples: int = 1000, seed: int = 0) -> Verdict:
    """Decide a claim by the 95 % interval of paired differences over images.

    `greater` and `best_of` hold if every interval lies above the margin of the claim, 0 for most, fail if one lies
    below it, and are undecided otherwise. `unbeaten` holds unless an interval lies below: it says that there is no gain
    to be seen elsewhere. `seldom_good` asks the same of 50 % less the share of good images.

    Raises:
        WorkbookError: scores that were not measured on the same images.
    """
    rivals = _rivals(claim, scores)
    measured = {name for name, row in scores.items() if row.confusions.any()}  # without masks nothing was counted
    missing = tuple(name for name in (claim.left, *rivals) if name not in measured)
    if missing:
        return Verdict(claim, Outcome.NOT_MEASURED, missing=missing)
    left = scores[claim.left]
    if claim.relation is Relation.SELDOM_GOOD:
        good = share_above(left, GOOD_IMAGE, samples, seed)
        differences = {HALF: Interval(50 - good.value, 50 - good.high, 50 - good.low)}
    else:
        differences = {name: paired_bootstrap(left, scores[name], samples, seed) for name in rivals}
    rival, outcome = _decide(claim, differences)
    return Verdict(claim, outcome, rival, differences[rival], details=left.details)


def _rivals(claim: Claim, scores: Mapping[str, Scores]) -> list[str]:
    """Names on the right, patterns replaced by what was measured; if that is nothing, they stay as they are."""
    rivals = []
    for name in claim.right:
        pattern = "*" in name or "[" in name
        rivals += [key for key in scores if fnmatchcase(key, name) and key != claim.left] if pattern else [name]
    return rivals or list(claim.right)


def _decide(claim: Claim, differences: Mapping[str, Interval]) -> tuple[str, Outcome]:
    rival = min(differences, key=lambda name: differences[name].high)
    if differences[rival].high < claim.margin:
        return rival, Outcome.FAILS
    if claim.relation is Relation.UNBEATEN:
        return rival, Outcome.HOLDS
    rival = min(differences, key=lambda name: differences[name].low)
    return rival, Outcome.HOLDS if differences[rival].low > claim.margin else Outcome.UNDECIDED


def judge_all(
    claims: Sequence[Claim],
    scores: Mapping[str, Scores],
    *,
    samples: int = 1000,
    seed: int = 0,
    meaningful: bool = True,
) -> list[Verdict]:
    """`judge` every claim, in order; with `meaningful` false none that was measured gets a verdict."""
    verdicts = [judge(claim, scores, samples=samples, seed=seed) for claim in claims]
    return [replace(verdict, outcome=withheld(verdict.outcome, meaningful)) for verdict in verdicts]


def withheld(outcome: Outcome, meaningful: bool) -> Outcome:
    """The outcome, or that there is no verdict where the numbers of a profile mean nothing."""
    return outcome if meaningful or outcome is Outcome.NOT_MEASURED else Outcome.NO_VERDICT


def claims_table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One line a claim: what it says, the verdict, and the difference that decided, in points of mean IoU."""
    nothing = Interval(math.nan, math.nan, math.nan)
    rows = []
    for verdict in verdicts:
        claim, difference = verdict.claim, verdict.difference or nothing
        against = verdict.rival or "missing: " + ", ".join(verdict.missing)
        row: dict[str, object] = {
            "claim": claim.text,
            "verdict": str(verdict.outcome),
            "left": claim.left,
            "against": against,
        }
        row |= {"difference": difference.value, "low": difference.low, "high": difference.high}
        details = verdict.details or {}
        rows.append(row | {"source": claim.source} | {key: details.get(key) for key in REQUIRED_DETAILS})
    return pd.DataFrame(rows)


def verdict_table(
    scores: Mapping[str, Scores], claim_ids: Sequence[str], samples: int = 1000, meaningful: bool = True
) -> pd.DataFrame:
    """What the paired bootstrap says of some claims, without the columns that all rows share.

    Args:
        scores: by the names of `wsseg_core.evaluate.claims`.
        claim_ids: which of `CLAIMS`.
        samples: resamples of the bootstrap.
        meaningful: see `judge_all`.
    """
    claims = [claim for claim in CLAIMS if claim.id in claim_ids]
    table = claims_table(judge_all(claims, scores, samples=samples, meaningful=meaningful))
    return table[["claim", "verdict", "left", "against", "difference", "low", "high"]]


def shaded(table: Styler) -> Styler:
    """The same table with the cells of its column `verdict` in the colour of the outcome."""
    return table.map(lambda outcome: f"background-color: {_COLOURS[Outcome(outcome)]}", subset=["verdict"])


def findings(verdicts: pd.DataFrame) -> Markdown:
    """What this run found, in sentences for the end of a notebook: the wording follows the verdict.

    Args:
        verdicts: of `verdict_table`.

    Returns:
        One line a claim, those that hold first; a notebook shows it as text.
    """
    lines = []
    for outcome, words in _WORDS.items():
        for row in verdicts[verdicts["verdict"] == outcome].to_dict("records"):
            numbers = ""
            if math.isfinite(row["difference"]):
                sides = " − ".join(row_label(row[side]) for side in ("left", "against") if row[side])
                numbers = f": {sides} {row['difference']:+.1f} [{row['low']:.1f}, {row['high']:.1f}]"
            lines.append(f"- {row['claim']}: **{words}**{numbers}")
    return Markdown("\n".join(["### What this run found", "", *lines]))


def write_claims(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the verdicts as JSON, in order: the fields of `Verdict`, those of the claim among them."""
    write_json(path, [asdict(verdict) for verdict in verdicts])
