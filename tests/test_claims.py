import pytest

from wsseg_core.base.errors import WorkbookError
from wsseg_core.evaluate.claims import CLAIMS, LAST_STAGES, OWN_FINDING, OWN_QUESTION, blocks_key


def test_the_list_has_unique_ids_and_marks_what_is_our_own():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert [claim.id for claim in CLAIMS if claim.source in (OWN_FINDING, OWN_QUESTION)] == [
        *("order", "forward-adds", "static-detector", "static-bias", "static-exclusion", "static-both-inputs"),
        *("pair-best", "pair-own", "net-pair-static"),
        *("dynamic-second-module", "dynamic-sub-target", "dynamic-control", "dynamic-detector"),
        *("pair-dynamic", "pair-detector"),
        *("selftrain-loop", "selftrain-static", "selftrain-floor", "selftrain-crf"),
    ]


def test_claims_of_the_last_stages_compare_seeds_with_seeds_and_networks_with_networks():
    assert {"psa-beats-cam", "static-best", "net-dynamic-saliency"} <= {claim.id for claim in LAST_STAGES}
    for claim in LAST_STAGES:
        assert len({name.endswith("_seed") for name in (claim.left, *claim.right)}) == 1


def test_only_neighbouring_blocks_have_a_name():
    assert blocks_key((3, 4, 5)) == "blocks3-5"
    for blocks in ((), (3, 5), (4, 3)):
        with pytest.raises(WorkbookError, match="neighbouring"):
            blocks_key(blocks)
