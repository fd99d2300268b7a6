"""Names of rows for people: `net_psa_crf` is "network on PSA seeds, CRF" in every table, figure and axis.

CSV files keep the short names of `claims`, by which rows are found again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("row", "label", "name", "left", "right", "against", "rival", "method")  # of tables, that hold names of rows

NAMES = {
    "simonyan": "input gradient",
    "simonyan_grabcut": "input gradient, GrabCut",
    "dcsm": "DCSM",
    "dcsm_crf_known": "DCSM, CRF, labels known",
    "dcsm_crf_tuned": "DCSM, CRF tuned on train masks",
    "dcsm_crf_unscaled": "DCSM, CRF widths not scaled",
    "bp": "BP",
    "gbp": "guided BP",
    "gbp_only": "guided BP, not subtracted",
    "fcn_mil": "FCN-MIL",
    "fcn_mil_ilp": "FCN-MIL, image-level prior",
    "fcn_gbp": "FCN with GBP",
    "zof": "zoom-out features, mi-SVM",
    "zof_gbp": "ZOF with GBP",
    # No rows, but headline numbers:
    "result2_minus_seed": "result 2 − seed",
    "irregular_static_gain": "static refinement of irregular made errors, gain",
    "irregular_dynamic_gain": "dynamic refinement from irregular made seeds, gain over the control",
    "selftrain_first": "self-training, first epoch",
    "selftrain_best": "self-training, best epoch",
    "selftrain_last": "self-training, last epoch",
    "psa_equal_steps": "self-training's network, as many steps on PSA seeds",
}
SEEDS = {
    "cam": "CAM seeds",
    "psa": "PSA seeds",
    "dcsm": "DCSM seeds",
    "static": "static seeds",
    "static_no_bias": "static seeds, no biases",
    "static_no_exclusion": "static seeds, collapsing images kept",
    "static_knowledge": "static seeds, only K asked",
    "static_training_bias": "static seeds, bias of the dynamic stage",
    "static_no_detector": "static seeds, biases without a detector",
    "static_other_image": "static seeds, detector shown another image",
    "pair_knowledge": "chosen pair, knowledge",
    "pair_advice": "chosen pair, advice",
    "pair_static": "chosen pair, refined",
    "pair_no_detector": "chosen pair, biases without a detector",
}
NETWORKS = {
    "psa": "network on PSA seeds",
    "psa_crf_seeds": "network on PSA seeds with CRF",
    "static": "network on static seeds",
    "dcsm_seeds": "network on DCSM seeds with CRF",
    "supervised": "network on true masks",
    "dynamic": "dynamic refinement",
    "dynamic_one_module": "dynamic, one module",
    "dynamic_seed_target": "dynamic, second module against the seed",
    "dynamic_no_detector": "dynamic, biases without a detector",
    "dynamic_fixed_seed": "dynamic, seed fixed (control)",
    "dynamic_tuned_bias": "dynamic, b(0) chosen on train masks",
    "pair_static": "network on the chosen pair's seeds",
    "pair_dynamic": "dynamic, chosen pair",
    "pair_no_detector": "dynamic, chosen pair, biases without a detector",
    "pair_fixed_seed": "dynamic, chosen pair, seed fixed (control)",
    "selftrain": "self-training from CAM seeds",
    "selftrain_first": "self-training, first epoch",
    "selftrain_psa": "self-training from PSA seeds",
    "selftrain_dcsm": "self-training from DCSM seeds",
    "selftrain_crf_loop": "self-training, CRF in the loop",
    "selftrain_soft": "self-training, soft labels",
    "selftrain_no_floor": "self-training, no floor",
    "selftrain_restart": "self-training, each epoch anew",
    "equal_steps": "as many steps on PSA seeds",
    "equal_steps_static": "as many steps on static seeds",
}
ORDERS = {
    "subtract_then_normalise": "subtract, then normalise",
    "normalise_then_subtract": "normalise, then subtract",
    "both": "normalise before and after",
    "joint": "one joint maximum",
    "released": "as the released code",
}


def _with_crf(known: dict[str, str]) -> Callable[..., str]:
    endings = {"_crf": ", CRF", "_crf_summed": ", CRF on the summed unary"}
    return lambda name, crf=None: known.get(name, name.replace("_", " ")) + endings.get(crf, "")


def _sizes(ratios: str) -> str:
    return f"input of {ratios.replace('-', ', ')} %"


# What a name looks like, and the words for its parts; the first form that fits is taken.
FORMS: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"(.+)_borders", lambda name: f"{row_label(name)}, near borders"),
    (r"net_(.+)_epoch(\d+)", lambda name, epoch: f"{network_label(name)}, epoch {epoch}"),
    (r"(selftrain\w*)_epoch(\d+)_seed", lambda name, epoch: f"labels of {network_label(name)}, epoch {epoch}"),
    (r"(selftrain\w*)_seed", lambda name: f"labels of {network_label(name)}"),
    (r"net_(.+?)(_crf|_crf_summed)?", _with_crf(NETWORKS)),
    (r"(.+?)(_crf)?_seed", _with_crf(SEEDS)),
    (r"(\w+)-alpha([\d.]+)", lambda name, alpha: f"{row_label(name)}, α = {alpha}"),
    (r"block(\d)", "block {}".format),
    (r"blocks(\d)-(\d)", "blocks {} to {}".format),
    (r"sizes?([\d-]+)", _sizes),
    (r"n(\d+)", "N = {}".format),
    (r"order-(\w+)", lambda order: ORDERS.get(order, order.replace("_", " "))),
    (r"combine-(\w+)-(\w+)", lambda how, foreground: f"{how.replace('_', ' ')}, foreground: {foreground}"),
    (r"fcn_mil-(\w+)", "FCN-MIL, {}".format),
    (r"other_(.+)", lambda name: f"second network: {row_label(name)}"),
    (r"(.+)_crf", lambda name: f"{row_label(name)}, CRF"),
)


def row_label(name: str) -> str:
    """What a row is called where people read it; a name that is not of `claims` stays as it is.

    Args:
        name: of scores, as in `wsseg_core.evaluate.claims`.
    """
    if name in NAMES:
        return NAMES[name]
    for form, words in FORMS:
        if match := re.fullmatch(form, name):
            return words(*match.groups())
    return name


def network_label(name: str) -> str:
    """What a segmentation network is called, by the name of its folder: `label` of its scores."""
    return row_label(f"net_{name}")


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table with words in place of names: in the columns of `COLUMNS` and in `network`, and in headers.

    A header that says whose numbers stand below it ends in " ours" or " published": see `tables.class_table`.
    """
    words = {column: frame[column].map(_label_of(row_label)) for column in COLUMNS if column in frame}
    if "network" in frame:
        words["network"] = frame["network"].map(_label_of(network_label))
    return frame.assign(**words).rename(columns=_header)


def _header(column: str) -> str:
    name, _, whose = str(column).rpartition(" ")
    return f"{row_label(name)} {whose}" if name and whose in ("ours", "published") else column


def _label_of(words: Callable[[str], str]) -> Callable[[object], object]:
    return lambda name: words(name) if isinstance(name, str) else name
