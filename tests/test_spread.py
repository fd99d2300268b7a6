"""Repetitions of a run, with made-up scores of images that are hard or easy for all."""

import math
from pathlib import Path

import numpy as np
import pytest

from wsseg_core.base.errors import WorkbookError
from wsseg_core.data.run import Run, open_run
from wsseg_core.evaluate.claims import Claim, Relation
from wsseg_core.evaluate.metrics import REQUIRED_DETAILS, TEST_PROTOCOL, Interval, Scores, mean_iou
from wsseg_core.evaluate.spread import (
    claims_over_seeds,
    judge_seeds,
    mean_figure,
    pooled_figures,
    read_seeds,
    seeds_text,
    spread_table,
)
from wsseg_core.evaluate.tables import write_table
from wsseg_core.evaluate.verdicts import Outcome, judge

DETAILS = dict.fromkeys(REQUIRED_DETAILS, "any") | {"protocol": TEST_PROTOCOL, "split": "val", "crf": "none"}
IMAGES = 40
DIFFICULTY = np.random.default_rng(0).integers(0, 300, IMAGES)


def scores(name: str, missed: int, seed: int = 0, **details: object) -> Scores:
    """Of 1000 foreground pixels, so many are missed on top of what the image's difficulty and some noise cost."""
    noise = np.random.default_rng([seed, *name.encode()]).integers(-20, 21, IMAGES)
    wrong = (DIFFICULTY + missed + noise).clip(0, 1000)
    confusions = np.stack([[[1000, 0], [m, 1000 - m]] for m in wrong]).astype(np.int64)
    return Scores(name, tuple(map(str, range(IMAGES))), confusions, DETAILS | {"seed": seed} | details)


def run_of(seed: int, **missed: int) -> dict[str, Scores]:
    return {name: scores(name, number, seed) for name, number in missed.items()}


def greater(left: str, *right: str, relation: Relation = Relation.BEST_OF) -> Claim:
    return Claim("id", "left beats right", "slide", left, right, relation)


def test_what_cannot_be_read_or_was_scored_otherwise_is_left_out_with_its_reason(tmp_path: Path) -> None:
    by_run = {0: run_of(0, a=100), 1: None, 2: {"a": scores("a", 100, 2, crf="4/2")}, 3: run_of(3, a=100, b=1)}
    by_run |= {4: {"a": Scores("a", tuple("xyz"), scores("a", 1).confusions[:3], DETAILS)}, 5: run_of(5, a=90)}

    def read(run: Run) -> dict[str, Scores]:
        if by_run[run.seed] is None:
            raise WorkbookError(f"{run.folder}: missing; run notebook 08 first")
        return by_run[run.seed]

    finished, left_out = read_seeds([open_run("smoke", seed, str(tmp_path)) for seed in by_run], read)
    assert list(finished) == [0, 5]
    assert finished[5]["a"] is by_run[5]["a"]
    assert left_out[1] == f"{tmp_path}/smoke-seed1: missing; run notebook 08 first"
    for seed, row in ((2, "a"), (3, "b"), (4, "a")):
        assert left_out[seed].startswith(f"{tmp_path}/smoke-seed{seed}: {row} was not scored as with seed 0")
        assert "\n" not in left_out[seed]


def test_spread_of_two_seeds_by_hand(tmp_path: Path) -> None:
    by_seed = {0: run_of(0, a=100, b=300), 3: run_of(3, a=150, b=300)}
    one, other = (by_seed[seed]["a"].mean_iou for seed in (0, 3))
    table = spread_table(by_seed)
    assert list(table["row"]) == ["a", "b"]
    first = table.loc[0]
    assert (first["seed 0"], first["seed 3"]) == (one, other)
    assert first["mean"] == pytest.approx((one + other) / 2)
    assert (first["lowest"], first["highest"]) == (other, one)
    assert first["deviation"] == pytest.approx(abs(one - other) / math.sqrt(2))
    write_table(table, tmp_path, "spread", "caption")
    assert "seed 3" in (tmp_path / "spread.md").read_text()


def test_headline_numbers_are_means_over_seeds_with_an_interval_over_images() -> None:
    by_seed = {0: run_of(0, a=100), 1: run_of(1, a=300)}
    figure = pooled_figures(by_seed, samples=200)["a"]
    assert figure["value"] == pytest.approx(np.mean([scores_of["a"].mean_iou for scores_of in by_seed.values()]))
    assert figure["low"] < figure["value"] < figure["high"]
    assert (figure["split"], figure["protocol"]) == ("val", TEST_PROTOCOL)
    alone = pooled_figures({0: by_seed[0]}, samples=200)["a"]
    assert [alone[end] for end in ("value", "low", "high")] == pytest.approx(
        list(vars(by_seed[0]["a"].interval(200)).values())
    )
    assert mean_figure([{"value": 1, "low": 0, "high": 4}, {"value": 3, "low": 1, "high": 6}]) == Interval(2, 0.5, 5)


def test_one_seed_has_no_deviation_and_says_so() -> None:
    by_seed = {2: run_of(2, a=100, b=300)}
    table = spread_table(by_seed)
    assert table["deviation"].isna().all()
    assert (table["lowest"] == table["highest"]).all()
    assert seeds_text(by_seed) == "one seed only (2)"
    assert set(claims_over_seeds([greater("a", "b")], by_seed)["seeds"]) == {"one seed only (2)"}
    assert seeds_text({0: {}, 1: {}, 4: {}}) == "3 seeds (0, 1, 4)"


@pytest.mark.parametrize("missed", [(100, 200), (200, 100), (100, 101), (101, 100)])
def test_one_seed_is_judged_as_without_others(missed: tuple[int, int]) -> None:
    measured = run_of(0, a=missed[0], b=missed[1], c=500)
    for claim in (greater("a", "b", relation=Relation.GREATER), greater("a", "b", "c")):
        alone, over = judge(claim, measured, samples=200), judge_seeds(claim, {0: measured}, samples=200)
        assert (over.outcome, over.rival, over.pooled) == (alone.outcome, alone.rival, alone.difference)


def test_every_resample_draws_the_same_images_for_all_seeds() -> None:
    by_seed = {seed: run_of(seed, a=100 + 10 * seed, b=110) for seed in range(3)}
    drawn = np.random.default_rng([0, IMAGES]).integers(0, IMAGES, (50, IMAGES))
    means = []
    for images in drawn:  # slow and obvious
        gains = [
            mean_iou(both["a"].confusions[images].sum(0)) - mean_iou(both["b"].confusions[images].sum(0))
            for both in by_seed.values()
        ]
        means.append(np.mean(gains))
    verdict = judge_seeds(greater("a", "b"), by_seed, samples=50)
    assert [verdict.pooled.low, verdict.pooled.high] == pytest.approx(np.percentile(means, [2.5, 97.5]))
    expected = {seed: both["a"].mean_iou - both["b"].mean_iou for seed, both in by_seed.items()}
    assert verdict.by_seed == expected
    assert verdict.pooled.value == pytest.approx(np.mean(list(expected.values())))


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ((100, 120, 150), Outcome.HOLDS),
        ((400, 350, 500), Outcome.FAILS),
        ((50, 50, 220), Outcome.UNDECIDED),  # clearly above 0 on the mean, but the third seed says otherwise
        ((400, 400, 180), Outcome.UNDECIDED),
        ((200, 199, 201), Outcome.UNDECIDED),
    ],
)
def test_a_claim_holds_if_the_interval_and_all_seeds_agree(left: tuple[int, ...], expected: Outcome) -> None:
    by_seed = {seed: run_of(seed, a=missed, b=200) for seed, missed in enumerate(left)}
    assert judge_seeds(greater("a", "b"), by_seed).outcome is expected
    assert judge_seeds(greater("a", "b"), dict(list(by_seed.items())[:2])).outcome in Outcome


def test_of_several_rivals_the_loudest_against_the_claim_decides() -> None:
    by_seed = {0: run_of(0, a=200, b=400, c=150, d=100), 1: run_of(1, a=200, b=300, c=250, d=100)}
    for rivals, loudest, outcome in (
        ("b", "b", Outcome.HOLDS),
        ("bc", "c", Outcome.UNDECIDED),
        ("bcd", "d", Outcome.FAILS),
    ):
        verdict = judge_seeds(greater("a", *rivals), by_seed)
        assert (verdict.rival, verdict.outcome) == (loudest, outcome)
    assert judge_seeds(greater("a", "c", relation=Relation.UNBEATEN), by_seed).outcome is Outcome.HOLDS


def test_table_of_claims_over_seeds(tmp_path: Path) -> None:
    by_seed = {0: run_of(0, a=100, b=300), 1: run_of(1, a=120, b=300)}
    table = claims_over_seeds([greater("a", "b"), greater("a", "none")], by_seed, samples=100)
    assert list(table["verdict"]) == ["holds", "not measured"]
    first, second = (row for _, row in table.iterrows())
    assert first["mean"] == pytest.approx((first["seed 0"] + first["seed 1"]) / 2)
    assert first["low"] < first["mean"] < first["high"]
    assert (first["against"], first["seeds"]) == ("b", "2 seeds (0, 1)")
    assert second[["seed 0", "seed 1", "mean", "low", "high"]].isna().all()
    open_ = claims_over_seeds([greater("a", "b"), greater("a", "none")], by_seed, samples=100, meaningful=False)
    assert list(open_["verdict"]) == ["no verdict", "not measured"]
    write_table(table, tmp_path, "claims", "caption")


def test_rows_of_two_tables_are_not_compared() -> None:
    by_seed = {0: {"a": scores("a", 1), "b": scores("b", 1, split="train")}}
    with pytest.raises(WorkbookError, match="'a' and 'b' were not scored alike"):
        judge_seeds(greater("a", "b"), by_seed)
