"""What the papers say in words, and whether it holds here: verdicts come from the paired bootstrap alone.

Names of `Scores`, the same in every notebook, in the published tables and in the claims below. All are with the
CRF, as published, except `dcsm` and `simonyan`.

    simonyan, simonyan_crf, simonyan_grabcut   input-gradient baseline without CRF, with it, with GrabCut instead
    dcsm, dcsm_crf, dcsm_crf_tuned             without CRF, with the paper's CRF values, with values found on train
    simonyan-alpha8, dcsm-alpha3               `alpha_key`       table 1
    block4, blocks3-5                          `blocks_key`      table 2
    size80, sizes80-100-120                    `size_key`        table 3; percent of the profile's image size
    n3                                         `candidates_key`  table 4
    bp, gbp                                                      table 5
    order-subtract_then_normalise              `order_key`       the order that the paper leaves open
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd

from wsseg_core.artifacts import write_json
from wsseg_core.config import SubtractionConfig
from wsseg_core.errors import WorkbookError
from wsseg_core.metrics import REQUIRED_DETAILS, Interval, Scores, paired_bootstrap


def alpha_key(method: str, alpha: float) -> str:
    """Name of the scores of `simonyan` or `dcsm` at one alpha (equation 5)."""
    return f"{method}-alpha{alpha:g}"


def blocks_key(blocks: Sequence[int]) -> str:
    """Name of the scores of one block of layers, or of a run of neighbouring ones.

    Raises:
        WorkbookError: the blocks are not neighbours in rising order.
    """
    if not blocks or list(blocks) != list(range(blocks[0], blocks[0] + len(blocks))):
        raise WorkbookError(f"blocks {list(blocks)} have no name; give neighbouring blocks, for instance [3, 4, 5]")
    return f"block{blocks[0]}" if len(blocks) == 1 else f"blocks{blocks[0]}-{blocks[-1]}"


def size_key(sizes: Sequence[int], image_size: int) -> str:
    """Name of the scores of some input sizes in pixels: 400 of 500 and 128 of 160 are both `size80`."""
    ratios = "-".join(str(round(100 * size / image_size)) for size in sizes)
    return f"size{ratios}" if len(sizes) == 1 else f"sizes{ratios}"


def candidates_key(min_candidates: int) -> str:
    """Name of the scores of one N (table 4)."""
    return f"n{min_candidates}"


def order_key(order: str) -> str:
    """Name of the scores of one order of subtraction and normalisation."""
    return f"order-{order}"


class Relation(StrEnum):
    """What a claim says of its left side."""

    GREATER = "greater"  # left beats right
    BEST_OF = "best_of"  # left beats every one of the others
    UNBEATEN = "unbeaten"  # none of the others beats left


class Outcome(StrEnum):
    """What the measurements say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Claim:
    """One qualitative statement.

    Attributes:
        id: short and stable.
        text: what it says.
        source: where it is said.
        left: name of the scores that it is about.
        right: names of the scores that these are compared with; a pattern such as `order-*` or `n[6-9]` stands for
            all measured scores that it matches, but for the left side.
        relation: of left to right.
    """

    id: str
    text: str
    source: str
    left: str
    right: tuple[str, ...]
    relation: Relation


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: the statement.
        outcome: what the paired bootstrap says.
        rival: the scores that decided: the one that speaks loudest against the claim.
        difference: left - rival, points of mean IoU, with its 95 % interval; None when not measured.
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

    `greater` and `best_of` hold if every interval lies above 0, fail if one lies below 0, and are undecided
    otherwise. `unbeaten` holds unless an interval lies below 0: it says that there is no gain to be seen elsewhere.

    Raises:
        WorkbookError: scores that were not measured on the same images.
    """
    rivals = _rivals(claim, scores)
    missing = tuple(name for name in (claim.left, *rivals) if name not in scores)
    if missing:
        return Verdict(claim, Outcome.NOT_MEASURED, missing=missing)
    left = scores[claim.left]
    differences = {name: paired_bootstrap(left, scores[name], samples, seed) for name in rivals}
    rival, outcome = _decide(claim.relation, differences)
    return Verdict(claim, outcome, rival, differences[rival], details=left.details)


def _rivals(claim: Claim, scores: Mapping[str, Scores]) -> list[str]:
    """Names on the right, patterns replaced by what was measured; if that is nothing, they stay as they are."""
    rivals = []
    for name in claim.right:
        pattern = "*" in name or "[" in name
        rivals += [key for key in scores if fnmatchcase(key, name) and key != claim.left] if pattern else [name]
    return rivals or list(claim.right)


def _decide(relation: Relation, differences: Mapping[str, Interval]) -> tuple[str, Outcome]:
    rival = min(differences, key=lambda name: differences[name].high)
    if differences[rival].high < 0:
        return rival, Outcome.FAILS
    if relation is Relation.UNBEATEN:
        return rival, Outcome.HOLDS
    rival = min(differences, key=lambda name: differences[name].low)
    return rival, Outcome.HOLDS if differences[rival].low > 0 else Outcome.UNDECIDED


def judge_all(
    claims: Sequence[Claim], scores: Mapping[str, Scores], *, samples: int = 1000, seed: int = 0
) -> list[Verdict]:
    """`judge` every claim, in order."""
    return [judge(claim, scores, samples=samples, seed=seed) for claim in claims]


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


def write_claims(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the verdicts as JSON, in order: the fields of `Verdict`, those of the claim among them."""
    write_json(path, [asdict(verdict) for verdict in verdicts])


_PAPER = "DCSM (Shimoda & Yanai, ECCV 2016), "
OWN_FINDING = "our own finding; the paper leaves the order open"

_BLOCKS = tuple(f"block{block}" for block in range(1, 6))
_COMBINATIONS = ("blocks1-5", "blocks2-5", "blocks4-5", "blocks3-4")
_SIZES = tuple(f"size{ratio}" for ratio in (60, 80, 100, 120, 140, 160))
_MORE_THAN_5 = ("n[6-9]", "n[1-9][0-9]")  # a data set of 8 classes has no N above 8

DCSM_CLAIMS = (
    Claim("block4-best", "block 4 is the best single block", _PAPER + "table 2",
          "block4", tuple(name for name in _BLOCKS if name != "block4"), Relation.BEST_OF),
    Claim("blocks3-5-best", "blocks 3-5 together beat every single block", _PAPER + "table 2",
          "blocks3-5", _BLOCKS, Relation.BEST_OF),
    Claim("blocks3-5-combination", "blocks 3-5 are the best combination of blocks", _PAPER + "table 2",
          "blocks3-5", _COMBINATIONS, Relation.BEST_OF),
    Claim("size-500", "the input size of the training is the best single one", _PAPER + "table 3",
          "size100", tuple(name for name in _SIZES if name != "size100"), Relation.BEST_OF),
    Claim("sizes", "several input sizes beat the best single one", _PAPER + "table 3",
          "sizes80-100-120", _SIZES, Relation.BEST_OF),
    Claim("subtraction", "subtraction helps: N = 3 beats N = 0", _PAPER + "table 4",
          "n3", ("n0",), Relation.GREATER),
    Claim("many-classes", "more than 5 classes do not help: no N above 5 beats N = 3", _PAPER + "table 4",
          "n3", _MORE_THAN_5, Relation.UNBEATEN),
    Claim("guided", "guided BP beats BP", _PAPER + "table 5", "gbp", ("bp",), Relation.GREATER),
    Claim("crf", "the CRF helps", _PAPER + "table 6", "dcsm_crf", ("dcsm",), Relation.GREATER),
    Claim("simonyan", "DCSM beats Simonyan et al., both with CRF and each at its own alpha", _PAPER + "table 1",
          "dcsm_crf", ("simonyan_crf",), Relation.GREATER),
    Claim("grabcut", "DCSM with CRF beats Simonyan et al. with GrabCut", _PAPER + "section 1 and figure 1",
          "dcsm_crf", ("simonyan_grabcut",), Relation.GREATER),
    Claim("order", "subtracting raw maps and normalising afterwards beats the other orders", OWN_FINDING,
          order_key(SubtractionConfig.order), (order_key("*"),), Relation.BEST_OF),
)  # fmt: skip
