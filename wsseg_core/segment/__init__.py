"""A segmentation network that learns from masks nobody drew (notebooks 06 to 08).

`retraining` trains it on seeds, `predictions` keeps what it says of images and draws masks of it, `upper_bound` is the
same network shown the true masks: the one place where a training reads them; `shipped` keeps networks for images of
one's own. Reads seeds; leaves networks and
what they predict.
Source: SSDD (Shimoda & Yanai, ICCV 2019), after DeepLab (Chen et al., ICLR 2015).
"""
