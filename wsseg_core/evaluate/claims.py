"""What the papers say in words, as comparisons of scores; `wsseg_core.evaluate.verdicts` says whether they hold here.

Names of `Scores`, the same in every notebook, in the published tables and in the claims below. All are with the
CRF, as published, except `dcsm` and `simonyan`. In `net_psa_crf` it is the CRF on what the network says.

    simonyan, simonyan_crf, simonyan_grabcut   input-gradient baseline without CRF, with it, with GrabCut instead
    dcsm, dcsm_crf, dcsm_crf_tuned             without CRF, with the paper's CRF values, with values found on train
    simonyan-alpha8, dcsm-alpha3               `alpha_key`       table 1
    block4, blocks3-5                          `blocks_key`      table 2
    size80, sizes80-100-120                    `size_key`        table 3; percent of the profile's image size
    n3                                         `candidates_key`  table 4
    bp, gbp                                                      table 5
    order-subtract_then_normalise              `order_key`       the order that the paper leaves open
    gbp_only, gbp_only_crf                     guided-BP maps without subtraction, without CRF and with it
    fcn_mil, fcn_mil_ilp, ..._crf              the forward pass's class maps; with the image-level prior; with CRF
    fcn_gbp, fcn_gbp_crf                       the latter enhanced by guided-BP maps
    zof, zof_gbp, ..._crf                      zoom-out features and mi-SVM, the same; the CRF is that of superpixels
    combine-product-saliency                   `combination_key` how the two are combined, and the foreground model
    other_dcsm, ...                            the same methods on the second network
    cam_seed, cam_crf_seed                     CAMs of the training images, labels known; without CRF, with it
    psa_seed, psa_crf_seed                     the same after their walk along pixel affinities
    net_psa, net_psa_crf                       network trained on the masks of `psa_seed`; without CRF, with it
    net_psa_crf_seeds, net_psa_crf_seeds_crf   network trained on those of `psa_crf_seed`; the same
    static_seed, static_no_bias_seed, ...      PSA's masks without and with CRF, refined; ablations of the refinement
    static_no_detector_seed, static_other_image_seed   by the biases alone; with answers for another image
    dcsm_crf_seed                              masks of DCSM with CRF, labels known
    pair_knowledge_seed, pair_advice_seed      the two masks of the pair that was chosen among several
    pair_static_seed, pair_no_detector_seed    the same, refined; by the biases alone
    net_pair_static, net_pair_dynamic, ...     networks from `pair_static_seed`; static, dynamic, and its controls
    net_static, net_dcsm_seeds, ..._crf        networks trained on `static_seed` and on `dcsm_crf_seed`; the same
    net_supervised, ..._crf                    network trained on true masks, the upper bound; the same
    net_dynamic, net_dynamic_one_module, ..., ..._crf   dynamic stage and its ablations; the same
    ..._crf_summed                             a network of these with the CRF over SSDD's own unary
    net_selftrain, net_selftrain_first, ...    self-training after its last epoch, its first, variants; without CRF
    selftrain_seed, ...                        the labels that it drew last, within those of the images
    net_equal_steps, net_equal_steps_static    the same network, as many steps on `psa_seed`, on `static_seed`
    ..._borders                                a network within some pixels of true borders: its boundary IoU

Seeds are scored on train in the seed protocol, networks on val in the test protocol; no claim mixes the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from wsseg_core.base.config import SubtractionConfig
from wsseg_core.base.errors import WorkbookError


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


def combination_key(combination: str, foreground: str) -> str:
    """Name of the scores of one way to enhance forward maps and one foreground model."""
    return f"combine-{combination}-{foreground}"


GOOD_IMAGE = 70  # percent of mean IoU


class Relation(StrEnum):
    """What a claim says of its left side."""

    GREATER = "greater"  # left beats right
    BEST_OF = "best_of"  # left beats every one of the others
    UNBEATEN = "unbeaten"  # none of the others beats left
    SELDOM_GOOD = "seldom_good"  # fewer than half of the images of left are above `GOOD_IMAGE`


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
        margin: points by which left must beat right.
    """

    id: str
    text: str
    source: str
    left: str
    right: tuple[str, ...]
    relation: Relation
    margin: float = 0.0


_PAPER = "DCSM (Shimoda & Yanai, ECCV 2016), "
OWN_FINDING = "our own finding; the paper leaves the order open"

_BLOCKS = tuple(f"block{block}" for block in range(1, 6))
_COMBINATIONS = ("blocks1-5", "blocks2-5", "blocks4-5", "blocks3-4")
_SIZES = tuple(f"size{ratio}" for ratio in (60, 80, 100, 120, 140, 160))
_MORE_THAN_5 = ("n[6-9]", "n[1-9][0-9]")  # a data set of 8 classes has no N above 8

_DCSM = (
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

OWN_QUESTION = "our own question; the slides do not compare the two"
_SLIDES = "Shimoda & Yanai, MIRU 2016, "
_POSTER = "Shimoda & Yanai, poster: combining CNN feature maps and object saliency maps"

_FORWARD = (
    Claim("gbp-enhances-fcn", "guided-BP maps enhance the forward maps (FCN) clearly", _SLIDES + "part 1",
          "fcn_gbp", ("fcn_mil",), Relation.GREATER),
    Claim("gbp-enhances-zof", "guided-BP maps enhance the forward maps (ZOF) clearly", _SLIDES + "part 1",
          "zof_gbp", ("zof",), Relation.GREATER),
    Claim("fcn-zof", "FCN with GBP beats ZOF with GBP", _SLIDES + "part 1",
          "fcn_gbp_crf", ("zof_gbp_crf",), Relation.GREATER),
    Claim("dcsm-forward", "gradients alone, subtracted (DCSM), beat both combinations", _SLIDES + "parts 1 and 2",
          "dcsm_crf", ("fcn_gbp_crf", "zof_gbp_crf"), Relation.BEST_OF),
    Claim("crf-fcn-mil", "the CRF helps FCN-MIL", _POSTER, "fcn_mil_crf", ("fcn_mil",), Relation.GREATER),
    Claim("crf-fcn-gbp", "the CRF helps FCN with GBP", _POSTER, "fcn_gbp_crf", ("fcn_gbp",), Relation.GREATER),
    Claim("crf-zof-gbp", "the superpixel CRF helps ZOF with GBP", _POSTER,
          "zof_gbp_crf", ("zof_gbp",), Relation.GREATER),
    Claim("forward-adds", "the forward maps add to the guided-BP maps", OWN_QUESTION,
          "fcn_gbp_crf", ("gbp_only_crf",), Relation.GREATER),
    Claim("any-cnn", "the method adapts to any CNN: on a second network DCSM beats forward maps and input gradients",
          _SLIDES + "applications",
          "other_dcsm_crf", ("other_fcn_mil_crf", "other_simonyan_crf"), Relation.BEST_OF),
)  # fmt: skip

_PSA = "Ahn & Kwak, CVPR 2018 (PSA)"
_SSDD = "Shimoda & Yanai, talk on change-region inference (SSDD, ICCV 2019), "

_SEEDS = (
    Claim("psa-beats-cam", "the walk along pixel affinities makes better seeds of CAMs", _PSA,
          "psa_seed", ("cam_seed",), Relation.GREATER),
    Claim("psa-without-crf", "the CRF makes PSA's seeds worse", _SSDD + "slide 'static refinement'",
          "psa_seed", ("psa_crf_seed",), Relation.GREATER),
    Claim("net-psa-crf-seeds", "a network learns more from PSA's seeds with CRF than without",
          _SSDD + "slide 'static refinement'", "net_psa_crf_seeds_crf", ("net_psa_crf",), Relation.GREATER),
    Claim("net-psa-dcsm", "a network trained on PSA's seeds beats DCSM",
          _SSDD + "slide 'comparison under the same condition'", "net_psa_crf", ("dcsm_crf",), Relation.GREATER),
)  # fmt: skip

_STATIC = (
    Claim("static-best", "static refinement makes better seeds than PSA, without CRF or with it",
          _SSDD + "slide 'static refinement'", "static_seed", ("psa_seed", "psa_crf_seed"), Relation.BEST_OF),
    Claim("net-static-psa", "a network learns more from refined seeds than from PSA's",
          _SSDD + "slide 'static refinement'", "net_static_crf", ("net_psa_crf",), Relation.GREATER),
    Claim("net-static-psa-crf", "a network learns more from refined seeds than from PSA's with CRF",
          _SSDD + "slide 'static refinement'", "net_static_crf", ("net_psa_crf_seeds_crf",), Relation.GREATER),
    Claim("static-detector", "what helps the seeds is the detector, not the biases alone", OWN_QUESTION,
          "static_seed", ("static_no_detector_seed", "static_other_image_seed"), Relation.BEST_OF),
    Claim("static-bias", "the biases make better seeds", OWN_QUESTION,
          "static_seed", ("static_no_bias_seed",), Relation.GREATER),
    Claim("static-exclusion", "leaving out images whose class collapses makes better seeds", OWN_QUESTION,
          "static_seed", ("static_no_exclusion_seed",), Relation.GREATER),
    Claim("static-both-inputs", "asking for the difference from both masks makes better seeds than from one",
          OWN_QUESTION, "static_seed", ("static_knowledge_seed",), Relation.GREATER),
    Claim("pair-best", "refining the chosen pair beats both of its masks, and the biases alone", OWN_QUESTION,
          "pair_static_seed", ("pair_knowledge_seed", "pair_advice_seed", "pair_no_detector_seed"), Relation.BEST_OF),
    Claim("pair-own", "the chosen pair gives better seeds than SSDD's own", OWN_QUESTION,
          "pair_static_seed", ("static_seed",), Relation.GREATER),
    Claim("net-pair-static", "a network learns more from the seeds of the chosen pair than from SSDD's own",
          OWN_QUESTION, "net_pair_static_crf", ("net_static_crf",), Relation.GREATER),
)  # fmt: skip

_DYNAMIC = (
    Claim("net-dynamic-psa", "dynamic refinement beats a network trained on PSA's seeds",
          _SSDD + "slide 'dynamic refinement'", "net_dynamic_crf", ("net_psa_crf",), Relation.GREATER),
    Claim("net-dynamic-static", "dynamic refinement beats static refinement",
          _SSDD + "slides 'static refinement' and 'dynamic refinement'",
          "net_dynamic_crf", ("net_static_crf",), Relation.GREATER),
    Claim("net-dynamic-saliency", "dynamic refinement beats DCSM",
          _SSDD + "slide 'comparison under the same condition'", "net_dynamic_crf", ("dcsm_crf",), Relation.GREATER),
    Claim("dynamic-second-module", "refining against the seed once more beats learning the first result", OWN_QUESTION,
          "net_dynamic_crf", ("net_dynamic_one_module_crf",), Relation.GREATER),
    Claim("dynamic-sub-target", "the second branch gives better targets than the fixed seed", OWN_QUESTION,
          "net_dynamic_crf", ("net_dynamic_seed_target_crf",), Relation.GREATER),
    Claim("dynamic-control", "what helps is the refinement, not the longer training", OWN_QUESTION,
          "net_dynamic_crf", ("net_dynamic_fixed_seed_crf",), Relation.GREATER),
    Claim("dynamic-detector", "what helps while learning are the detectors, not the biases alone", OWN_QUESTION,
          "net_dynamic_crf", ("net_dynamic_no_detector_crf",), Relation.GREATER),
    Claim("pair-dynamic", "from the seeds of the chosen pair, too, what helps is the refinement", OWN_QUESTION,
          "net_pair_dynamic_crf", ("net_pair_fixed_seed_crf",), Relation.GREATER),
    Claim("pair-detector", "from the seeds of the chosen pair, too, it is the detectors", OWN_QUESTION,
          "net_pair_dynamic_crf", ("net_pair_no_detector_crf",), Relation.GREATER),
)  # fmt: skip

_TALK = "talk on self-training, 2019"

_SELF_TRAINING = (
    Claim("selftrain-cam", "self-training makes better labels than the CAMs that it starts from", _TALK,
          "selftrain_seed", ("cam_seed",), Relation.GREATER),
    Claim("selftrain-epochs", "the last epoch has a better network than the first", _TALK,
          "net_selftrain", ("net_selftrain_first",), Relation.GREATER),
    Claim("selftrain-loop", "from PSA's seeds, the loop beats as many steps on the seeds alone", OWN_QUESTION,
          "net_selftrain_psa", ("net_equal_steps",), Relation.GREATER),
    Claim("selftrain-static", "the loop from PSA's seeds beats as many steps on the refined seeds", OWN_QUESTION,
          "net_selftrain_psa", ("net_equal_steps_static",), Relation.GREATER),
    Claim("selftrain-floor", "a floor that keeps classes alive helps", OWN_QUESTION,
          "net_selftrain", ("net_selftrain_no_floor",), Relation.GREATER),
    Claim("selftrain-crf", "a CRF in the loop helps", OWN_QUESTION,
          "net_selftrain_crf_loop", ("net_selftrain",), Relation.GREATER),
    Claim("selftrain-borders", "the decision near object boundaries is weak: IoU is lower there by 5 points or more",
          _TALK, "net_selftrain", ("net_selftrain_borders",), Relation.GREATER, 5.0),
    Claim("selftrain-practical", f"not yet of practical use: fewer than half of the images are above {GOOD_IMAGE} %",
          _TALK, "net_selftrain", (), Relation.SELDOM_GOOD),
)  # fmt: skip

LAST_STAGES = _SEEDS + _STATIC + _DYNAMIC  # notebooks 06 to 08, which `wsseg run --seeds` repeats
CLAIMS = _DCSM + _FORWARD + LAST_STAGES + _SELF_TRAINING
