"""Change-region inference: which of two masks to believe, pixel by pixel (notebooks 07 and 08).

`difference` holds what both stages share: targets, losses, the rule that merges two masks. `static_stage` refines all
seeds once; `dynamic_stage` refines them at every step of a training (`dynamic_step`). Reads seeds; leaves refined seeds
and a network.
Source: SSDD (Shimoda & Yanai, ICCV 2019).
"""
