"""Weakly supervised semantic segmentation from image-level labels, step by step.

One room a step of the method; each builds on the rooms above it in this list, and never on one below:

    base        settings, artifacts on disk, processes: what every room stands on
    data        images, image-level labels, masks; and the run, which every stage is given
    nets        network modules, nothing else
    classify    the training loop, and the classifier                    notebook 01
    crf         dense CRF and superpixel CRF                             notebooks 04, 05
    saliency    gradients, subtraction, DCSM                             notebooks 02, 03
    forward     class maps of the forward pass, zoom-out features        notebook 05
    affinity    CAM, pixel affinity, random walk, seeds                  notebook 06
    segment     a segmentation network that learns from seeds            notebooks 06, 07
    refine      which of two masks to believe; self-training             notebooks 07 to 09
    evaluate    scores, tables, claims and verdicts; the factor study    all, and notebooks 10, 11
    workbook    pictures, explorers, headless runs, report, command line
"""
