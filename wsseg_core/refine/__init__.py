"""Change-region inference: which of two masks to believe, pixel by pixel (notebooks 07 and 08), and self-training (09).

`mask_pairs` holds the two masks of every image, `difference` what both stages share: targets, losses, the rule that
merges two masks. `static_stage` refines all seeds once; `dynamic_stage` refines them at every step of a training
(`dynamic_step`). `self_training` learns from what its own network drew. Reads seeds; leaves refined seeds and networks.
Sources: SSDD (Shimoda & Yanai, ICCV 2019); a talk of 2019, after BoxSup (Dai et al., ICCV 2015).
"""
