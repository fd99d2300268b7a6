import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wsseg_core.base.errors import WorkbookError
from wsseg_core.evaluate.claims import CLAIMS, Claim, Relation
from wsseg_core.evaluate.metrics import REQUIRED_DETAILS, TEST_PROTOCOL, Scores, paired_bootstrap
from wsseg_core.evaluate.tables import show
from wsseg_core.evaluate.verdicts import (
    Outcome,
    claims_table,
    findings,
    judge,
    judge_all,
    shaded,
    verdict_table,
    write_claims,
)

DETAILS = dict.fromkeys(REQUIRED_DETAILS, "any") | {"protocol": TEST_PROTOCOL, "split": "val"}
DIFFICULTY = np.random.default_rng(0).integers(0, 300, 40)  # shared by all methods, so that pairing matters
NOISE = {name: np.random.default_rng([1, i]).integers(-60, 61, 40) for i, name in enumerate("abcd")}


def scores(name: str, wrong: int, noise: str = "a") -> Scores:
    """40 images; `wrong` of 1000 foreground pixels are missed on top of what the image's difficulty costs."""
    missed = (DIFFICULTY + wrong + NOISE[noise]).clip(0, 1000)
    confusions = np.stack([[[1000, 0], [m, 1000 - m]] for m in missed]).astype(np.int64)
    return Scores(name, tuple(map(str, range(40))), confusions, DETAILS)


GOOD, BAD, WORSE = scores("good", 100), scores("bad", 300, "b"), scores("worse", 500, "c")
LIKE_GOOD = scores("like_good", 101, "d")
SCORES = {"good": GOOD, "bad": BAD, "worse": WORSE, "like_good": LIKE_GOOD}


def outcome(relation: Relation, left: str, *right: str) -> Outcome:
    return judge(Claim("id", "text", "source", left, right, relation), SCORES).outcome


def test_the_example_scores_are_what_the_tests_below_take_them_for():
    assert paired_bootstrap(GOOD, BAD).low > 5
    near = paired_bootstrap(GOOD, LIKE_GOOD)
    assert near.low < 0 < near.high


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("good", ("bad",), Outcome.HOLDS),
        ("bad", ("good",), Outcome.FAILS),
        ("good", ("like_good",), Outcome.UNDECIDED),
        ("like_good", ("good",), Outcome.UNDECIDED),
    ],
)
def test_left_beats_right(left, right, expected):
    assert outcome(Relation.GREATER, left, *right) is expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("good", ("bad", "worse"), Outcome.HOLDS),
        ("like_good", ("good", "bad"), Outcome.HOLDS),
        ("good", ("like_good",), Outcome.HOLDS),
        ("bad", ("worse", "good"), Outcome.FAILS),
    ],
)
def test_no_other_beats_left(left, right, expected):
    assert outcome(Relation.UNBEATEN, left, *right) is expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("good", ("bad", "worse"), Outcome.HOLDS),
        ("bad", ("worse", "good"), Outcome.FAILS),
        ("good", ("bad", "like_good", "worse"), Outcome.UNDECIDED),
        ("worse", ("like_good", "good", "bad"), Outcome.FAILS),
    ],
)
def test_left_is_the_best_of_several(left, right, expected):
    assert outcome(Relation.BEST_OF, left, *right) is expected


@pytest.mark.parametrize("relation", Relation)
@pytest.mark.parametrize(("left", "right"), [("uncounted", "bad"), ("good", "uncounted")])
def test_scores_without_any_mask_decide_nothing(relation, left, right):
    uncounted = Scores("uncounted", GOOD.image_ids, np.zeros_like(GOOD.confusions), DETAILS)
    verdict = judge(Claim("id", "text", "source", left, (right,), relation), SCORES | {"uncounted": uncounted})
    assert (verdict.outcome, verdict.missing) == (Outcome.NOT_MEASURED, ("uncounted",))


@pytest.mark.parametrize(
    ("relation", "left", "right", "rival"),
    [
        (Relation.BEST_OF, "good", ("worse", "bad"), "bad"),
        (Relation.BEST_OF, "good", ("bad", "like_good"), "like_good"),
        (Relation.BEST_OF, "bad", ("good", "worse"), "good"),
        (Relation.UNBEATEN, "bad", ("worse", "good"), "good"),
        (Relation.UNBEATEN, "good", ("worse", "like_good"), "like_good"),
    ],
)
def test_the_difference_shown_is_the_one_that_decided(relation, left, right, rival):
    verdict = judge(Claim("id", "text", "source", left, right, relation), SCORES, samples=200, seed=3)
    assert verdict.rival == rival
    assert verdict.difference == paired_bootstrap(SCORES[left], SCORES[rival], 200, 3)
    assert verdict.details == DETAILS


def test_missing_scores_are_named():
    verdict = judge(Claim("id", "text", "source", "good", ("bad", "n15", "n10"), Relation.BEST_OF), SCORES)
    assert verdict.outcome is Outcome.NOT_MEASURED
    assert verdict.missing == ("n15", "n10")
    assert verdict.difference is None
    assert judge(Claim("id", "text", "source", "n3", ("bad",), Relation.GREATER), SCORES).missing == ("n3",)


def test_a_star_stands_for_the_measured_ones_but_left():
    measured = {"order-x": GOOD, "order-y": BAD, "order-z": WORSE, "other": LIKE_GOOD}
    claim = Claim("id", "text", "source", "order-x", ("order-*",), Relation.BEST_OF)
    verdict = judge(claim, measured)
    assert (verdict.outcome, verdict.rival) == (Outcome.HOLDS, "order-y")
    alone = judge(claim, {"order-x": GOOD})
    assert (alone.outcome, alone.missing) == (Outcome.NOT_MEASURED, ("order-*",))


def test_patterns_match_what_a_data_set_allows():
    claim = next(claim for claim in CLAIMS if claim.id == "many-classes")
    small = judge(claim, {"n3": GOOD, "n5": scores("n5", 0), "n8": BAD, "n0": BAD})
    assert (small.outcome, small.rival, small.missing) == (Outcome.HOLDS, "n8", ())
    large = judge(claim, {"n3": BAD, "n10": WORSE, "n15": GOOD})
    assert (large.outcome, large.rival) == (Outcome.FAILS, "n15")
    assert judge(claim, {"n3": GOOD, "n4": BAD, "n5": BAD}).outcome is Outcome.NOT_MEASURED


def test_scores_of_other_images_are_refused():
    other = Scores("other", tuple(map(str, range(40, 80))), GOOD.confusions, DETAILS)
    with pytest.raises(WorkbookError, match="other images"):
        judge(Claim("id", "text", "source", "good", ("other",), Relation.GREATER), {"good": GOOD, "other": other})


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_verdict_follows_the_measurements_and_not_the_paper(claim: Claim):
    rivals = {"order-*": "order-b", "n[6-9]": "n8", "n[1-9][0-9]": "n10"}
    right = [rivals.get(name, name) for name in claim.right]
    as_printed = {claim.left: GOOD} | dict.fromkeys(right, BAD)
    upside_down = {claim.left: BAD} | dict.fromkeys(right, GOOD)
    if claim.relation is Relation.SELDOM_GOOD:
        as_printed, upside_down = {claim.left: WORSE}, {claim.left: GOOD}
    assert judge(claim, as_printed).outcome is Outcome.HOLDS
    assert judge(claim, upside_down).outcome is Outcome.FAILS
    assert judge(claim, {}).outcome is Outcome.NOT_MEASURED


def test_a_margin_is_to_be_beaten() -> None:
    gap = paired_bootstrap(GOOD, BAD)
    for margin, expected in (
        (gap.low - 1, Outcome.HOLDS),
        (gap.value, Outcome.UNDECIDED),
        (gap.high + 1, Outcome.FAILS),
    ):
        claim = Claim("id", "text", "source", "good", ("bad",), Relation.GREATER, margin)
        verdict = judge(claim, SCORES)
        assert (verdict.outcome, verdict.difference) == (expected, gap)


def test_images_are_seldom_good_by_hand() -> None:
    """Of 40 images as many are perfect as is said; the others have a mean IoU of 25 %."""
    claim = Claim("id", "text", "source", "some", (), Relation.SELDOM_GOOD)
    for perfect, expected in ((4, Outcome.HOLDS), (20, Outcome.UNDECIDED), (36, Outcome.FAILS)):
        drawn = [[[50, 0], [0, 50]]] * perfect + [[[50, 0], [50, 0]]] * (40 - perfect)
        verdict = judge(claim, {"some": Scores("some", GOOD.image_ids, np.array(drawn), DETAILS)})
        assert (verdict.outcome, verdict.rival) == (expected, "half of the images")
        assert verdict.difference is not None
        assert verdict.difference.value == 50 - 100 * perfect / 40
        assert verdict.difference.low <= verdict.difference.value <= verdict.difference.high


def test_verdicts_as_table_and_as_json(tmp_path: Path):
    claims = [
        Claim("one", "good beats bad", "table 1", "good", ("bad",), Relation.GREATER),
        Claim("two", "n3 beats n0", "table 4", "n3", ("n0",), Relation.GREATER),
    ]
    verdicts = judge_all(claims, SCORES)
    frame = claims_table(verdicts)
    assert list(frame["verdict"]) == ["holds", "not measured"]
    assert list(frame["against"]) == ["bad", "missing: n3, n0"]
    assert frame.loc[0, "low"] < frame.loc[0, "difference"] < frame.loc[0, "high"]
    assert math.isnan(frame.loc[1, "difference"])
    assert frame.loc[0, "protocol"] == TEST_PROTOCOL
    write_claims(tmp_path / "claims.json", verdicts)
    one, two = json.loads((tmp_path / "claims.json").read_text())
    assert (one["claim"]["id"], one["outcome"], one["rival"]) == ("one", "holds", "bad")
    assert one["difference"]["value"] == pytest.approx(GOOD.mean_iou - BAD.mean_iou)
    assert one["details"] == DETAILS
    assert (two["outcome"], two["difference"], two["missing"]) == ("not measured", None, ["n3", "n0"])


def test_claims_without_scores_are_not_measured() -> None:
    table = verdict_table({}, ["guided", "order"])
    assert list(table["verdict"]) == ["not measured", "not measured"]


def test_numbers_that_mean_nothing_give_no_verdict() -> None:
    claims = [
        Claim("a", "good beats bad", "source", "good", ("bad",), Relation.GREATER),
        Claim("b", "bad beats good", "source", "bad", ("good",), Relation.GREATER),
        Claim("c", "good beats none", "source", "good", ("none",), Relation.GREATER),
    ]
    decided, open_ = judge_all(claims, SCORES), judge_all(claims, SCORES, meaningful=False)
    assert [verdict.outcome for verdict in decided] == [Outcome.HOLDS, Outcome.FAILS, Outcome.NOT_MEASURED]
    assert [verdict.outcome for verdict in open_] == [Outcome.NO_VERDICT, Outcome.NO_VERDICT, Outcome.NOT_MEASURED]
    assert [verdict.difference for verdict in open_] == [verdict.difference for verdict in decided]


def test_findings_are_sentences_that_follow_the_verdict():
    rows = [
        ("b helps", "undecided", "psa_seed", "cam_seed", 0.1, -0.4, 0.6),
        ("a helps", "holds", "net_psa_crf", "net_psa", 2.34, 1.0, 3.0),
        ("c helps", "not measured", "", "", np.nan, np.nan, np.nan),
    ]
    table = pd.DataFrame(rows, columns=["claim", "verdict", "left", "against", "difference", "low", "high"])
    assert findings(table).data.splitlines() == [
        *("### What this run found", ""),
        "- a helps: **yes, here it does**: network on PSA seeds, CRF − network on PSA seeds +2.3 [1.0, 3.0]",
        "- b helps: **these images cannot tell**: PSA seeds − CAM seeds +0.1 [-0.4, 0.6]",
        "- c helps: **not measured**",
    ]


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_colour(outcome):
    page = shaded(show(pd.DataFrame({"claim": ["a claim"], "verdict": [str(outcome)]}))).to_html()
    assert "background-color: #" in page
