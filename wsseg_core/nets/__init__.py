"""Network modules only; how they are trained stands in the room of each step.

The fully convolutional classifiers (`vgg`, `resnet`, `timm_nets`, by name in `architectures`), what later networks are
built on (`backbones`, found by `tracing`), the same weights at a finer stride (`dilation`) or with batch norm folded
in (`folding`), and the heads of the later stages: CAM, AffinityNet, segmentation, difference detection. Sources stand
in each file.
"""
