"""The settings that the tables 1 to 5 of DCSM compare, by the names of `claims`: notebook 03 in one list.

Shimoda & Yanai, "Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation", ECCV 2016.
"""

from collections.abc import Callable
from functools import partial

from wsseg_core.base.config import Profile
from wsseg_core.evaluate.claims import alpha_key, blocks_key, candidates_key, order_key, size_key
from wsseg_core.nets.architectures import stages
from wsseg_core.saliency.dcsm import Setting, dcsm_setting, simonyan_setting
from wsseg_core.saliency.extraction import block_layers
from wsseg_core.saliency.subtraction import ORDERS

NOTEBOOK = "03_subtraction_ablations"
BLOCKS = ((1,), (2,), (3,), (4,), (5,), (1, 2, 3, 4, 5), (2, 3, 4, 5), (3, 4, 5), (4, 5), (3, 4))  # rows of table 2
SIZE_RATIOS = ((60, 80, 100), (80, 100), (80, 100, 120), (100, 120), (100, 120, 140), (100, 120, 140, 160))  # table 3

# Rows by name, as in `methods.METHODS`.
DCSM_METHODS: dict[str, Callable[[Profile, str], Setting]] = {
    "simonyan": simonyan_setting,
    # GrabCut looks at quantiles of the map, which alpha does not move unless tanh saturates.
    "simonyan_grabcut": partial(simonyan_setting, alpha=1.0, grabcut=True),
    "simonyan_crf": partial(simonyan_setting, crf=True),
    "dcsm": dcsm_setting,
    "dcsm_crf": partial(dcsm_setting, crf=True),
}


def ablation_settings(profile: Profile) -> dict[str, list[Setting]]:
    """Rows by table; what is not varied is as in the profile.

    All have the CRF but for `simonyan`, `simonyan_grabcut` and `dcsm`.

    Beyond the paper: plain back-propagation at every alpha, since its best one need not be that of guided
    back-propagation, and the orders of subtraction and normalisation.
    """
    sweeps, base = profile.sweeps, (profile.data.image_size,)
    return {
        "methods": dcsm_methods(profile),
        "table1": [
            *(
                simonyan_setting(profile, alpha_key("simonyan", alpha), crf=True, alpha=alpha)
                for alpha in sweeps.alphas
            ),
            *(dcsm_setting(profile, alpha_key("dcsm", alpha), crf=True, alpha=alpha) for alpha in sweeps.alphas),
        ],
        "table2": [
            dcsm_setting(profile, blocks_key(b), True, layers=block_layers(profile.classifier, b), sizes=base)
            for b in BLOCKS
            if set(b) <= stages(profile.classifier).keys()
        ],
        "table3": [
            dcsm_setting(profile, size_key(sizes, profile.data.image_size), crf=True, sizes=sizes)
            for sizes in size_combinations(profile)
        ],
        "table4": [
            dcsm_setting(profile, candidates_key(count), crf=True, min_candidates=count)
            for count in sweeps.min_candidates
        ],
        "table5": [
            dcsm_setting(profile, "bp", crf=True, guided=False),
            dcsm_setting(profile, "gbp", crf=True),
            *(dcsm_setting(profile, alpha_key("bp", a), crf=True, guided=False, alpha=a) for a in sweeps.alphas),
        ],
        "orders": [dcsm_setting(profile, order_key(order), crf=True, order=order) for order in ORDERS],
    }


def dcsm_methods(profile: Profile) -> list[Setting]:
    """DCSM and its baselines, without a CRF and with it."""
    return [row(profile, name) for name, row in DCSM_METHODS.items()]


def size_combinations(profile: Profile) -> list[tuple[int, ...]]:
    """Rows of table 3 in pixels: each size alone, the published combinations of sizes that the profile has, its own."""
    config, base = profile.saliency, profile.data.image_size
    sizes = sorted({*config.sizes, *config.other_sizes})
    by_ratio = {round(100 * size / base): size for size in sizes}
    published = [tuple(by_ratio[r] for r in ratios) for ratios in SIZE_RATIOS if by_ratio.keys() >= set(ratios)]
    return list(dict.fromkeys([*((size,) for size in sizes), *published, config.sizes]))
