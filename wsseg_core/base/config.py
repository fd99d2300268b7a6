"""Every number that a run depends on: one frozen dataclass a stage, and profiles that fill them in.

A profile is a TOML file with one table a stage. Whatever it leaves out keeps the default below, which is the
value of the published setting unless the comment beside it says otherwise. Sources: DCSM is Shimoda & Yanai,
"Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation", ECCV 2016.
"""

import dataclasses
import difflib
import math
import sys
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsseg_core.base.errors import WorkbookError

SOURCES = ("voc", "toyvoc")
PROFILE_FOLDER = Path(__file__).parents[1] / "profiles"


def _ranged(default: Any, low: float, high: float = math.inf, empty: bool = False) -> Any:
    """A field whose value, or each of whose values, must lie in low..high; `load_profile` makes sure."""
    return field(default=default, metadata={"range": (low, high), "empty": empty})


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and which of them are used.

    Raises:
        WorkbookError: another source.
    """

    source: str = "voc"  # one of SOURCES: a devkit on disk, or one that is drawn when it is missing
    devkit: str = "data/VOCdevkit/VOC2012"
    train_split: str = "train_aug"
    val_split: str = "val"
    image_size: int = _ranged(500, 32, 8192)  # the longest side is scaled to this, the rest is padded (DCSM 3.2)
    max_train_images: int = _ranged(0, 0)  # 0: all of them
    max_val_images: int = _ranged(0, 0)
    # Some of the devkit's classes, in this order, with the others as background; (): all of them.
    classes: tuple[str, ...] = ()
    drop_unlabelled: bool = False  # train without the images that show none of the classes

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise WorkbookError(f"data.source {self.source!r} is unknown; use {' or '.join(SOURCES)}")


@dataclass(frozen=True)
class ToyVocConfig:
    """The factors of the procedural scenes. Turn one, draw again, and see which part of the method breaks.

    Raises:
        WorkbookError: a value outside of its range.
    """

    seed: int = _ranged(0, 0, 2**32 - 1)
    train_images: int = _ranged(2400, 1, 99_999)
    val_images: int = _ranged(300, 1, 99_999)
    image_size: int = _ranged(160, 32, 1024)  # side of the square images, pixels
    supersampling: int = _ranged(2, 1, 4)  # drawn this many times larger, then averaged down
    object_counts: tuple[float, ...] = _ranged((0.5, 0.38, 0.12), 0, 1)  # probabilities of 1, 2, 3 objects
    object_size: tuple[float, float] = _ranged((0.5, 0.95), 0.1, 3)  # longer side of a lone object / image side
    own_coats: float = _ranged(0.6, 0, 1)  # probability that an object's body, too, tells its class: colour and pattern
    head_to_body: float = _ranged(1.0, 0.3, 2)  # scale of the class-specific part; 1 as drawn
    context: float = _ranged(0.3, 0, 1)  # probability that an object stands in a scene of its kind
    cooccurrence: float = _ranged(0.6, 0, 1)  # multiplies the probability that a partner comes along
    occlusion: float = _ranged(0.3, 0, 1)  # probability that something stands in front of the objects
    clutter: int = _ranged(4, 0, 20)  # at most this many things of no class, in the colours of objects
    camouflage: float = _ranged(0.5, 0, 1)  # probability that an object has the colour of what lies behind it
    inner_edges: float = _ranged(0.4, 0, 1)  # contrast of the patterns inside an object
    shadows: float = _ranged(0.6, 0, 1)  # depth of the shadows and highlights that cross contours
    light: float = _ranged(0.3, 0, 1)  # strength of the light gradient over the image, and of its gain
    blur: float = _ranged(0.6, 0, 5)  # largest Gaussian sigma, pixels
    noise: float = _ranged(5.0, 0, 100)  # largest sigma of the sensor noise, grey levels
    min_label_fraction: float = _ranged(0.01, 0, 0.5)  # a class on fewer pixels is not labelled; its pixels are void

    def __post_init__(self) -> None:
        _check_ranges(self, "toyvoc")
        if not 1 <= len(self.object_counts) <= 3 or abs(sum(self.object_counts) - 1) > 1e-6:
            raise WorkbookError(
                f"toyvoc.object_counts = {self.object_counts!r}: use one to three probabilities that add up to 1"
            )


@dataclass(frozen=True)
class ClassifierConfig:
    """Multi-label classifier, DCSM 3.2 and 4.2."""

    architecture: str = "vgg16"  # or "resnet18", or "timm:NAME" for any convolutional network of timm
    width: int = _ranged(64, 1, 1024)  # channels of block 1; VGG-16 has 64
    batch_norm: bool = False
    fc_channels: int = _ranged(4096, 1, 65_536)
    fc6_kernel: int = _ranged(7, 1, 31)
    dropout: float = _ranged(0.5, 0, 0.99)
    stride: int = _ranged(32, 1, 32)  # of the score map; below it, convolutions are dilated instead
    pooling: str = "max"  # of the score map over the image; "average" learns faster above a frozen trunk
    # "imagenet": of torchvision, timm or a package; "random"; or a checkpoint, by a path from the workbook's folder.
    weights: str = "imagenet"
    optimizer: str = "sgd"  # "sgd" or "adamw"
    learning_rate: float = _ranged(1e-5, 0, 10)
    schedule: str = "constant"  # "constant" or "one_cycle"
    momentum: float = _ranged(0.9, 0, 0.9999)
    weight_decay: float = _ranged(5e-4, 0, 10)
    batch_size: int = _ranged(2, 1)
    head_steps: int = _ranged(30_000, 0)  # on the layers above pool5 only
    steps: int = _ranged(20_000, 0)  # then on all layers; 0: the trunk stays as it is
    train_from: int = _ranged(1, 1, 5)  # of those, the stage from which on layers learn
    frozen_batch_norm: bool = False  # in those; while the head alone learns it always is
    resize_range: tuple[float, float] = _ranged((0.7, 1.4), 0.05, 10)  # ratio to image_size, drawn once a batch
    flip: bool = True  # not in the paper
    threshold: float = _ranged(0.5, 0, 1)  # a class is detected above this score (DCSM 3.3)
    precision: str = "auto"  # "float32", "bfloat16", or "auto": bfloat16 where the hardware has it
    checkpoint_every: int = _ranged(500, 1)
    validate_every: int = _ranged(2_000, 1)
    workers: int = _ranged(2, 0, 256)  # processes that read and decode images


@dataclass(frozen=True)
class FeaturesConfig:
    """Maps of a trunk that does not learn, computed once for all images (`classify.features`). Not in the papers."""

    # Sides of padded inputs, for the classifier's head and CAMs; none: the trunk runs each time.
    sizes: tuple[int, ...] = _ranged((), 32, 8192, empty=True)
    dense_size: int = _ranged(
        0, 0, 8192
    )  # side of those for pixel affinities and segmentation; 0: the trunk runs each time


@dataclass(frozen=True)
class SaliencyConfig:
    """Gradients at intermediate layers, DCSM 3.3."""

    sizes: tuple[int, ...] = _ranged((400, 500, 600), 32, 8192)  # S of equation 5, as input sizes in pixels
    other_sizes: tuple[int, ...] = _ranged((300, 700, 800), 32, 8192, empty=True)  # the rest of table 3
    ablations: bool = True  # lower layers, other sizes, plain gradients: tables 2, 3 and 5; notebook 03 needs them
    # L of equation 5: VGG-16's convolutions of these blocks; or stages.
    blocks: tuple[int, ...] = _ranged((3, 4, 5), 1, 5)
    layers: tuple[tuple[str, ...], ...] = ()  # L by name instead, in groups that count once each
    max_classes: int = _ranged(15, 1)  # maps kept an image, for table 4's largest N
    precision: str = "float32"
    batch_size: int = _ranged(1, 1)


@dataclass(frozen=True)
class SubtractionConfig:
    """Equations 4 and 5 of DCSM."""

    alpha: float = _ranged(3.0, 0, 1000)
    min_candidates: int = _ranged(3, 0)  # N of table 4
    order: str = "subtract_then_normalise"  # the paper leaves it open; see wsseg_core.saliency.subtraction
    simonyan_alpha: float = _ranged(8.0, 0, 1000)  # best alpha of the input-gradient baseline (table 1)


@dataclass(frozen=True)
class CrfConfig:
    """Dense CRF, DCSM 3.4 and 4.2. Kernel widths gamma_alpha and gamma_gamma are in pixels of a 500-pixel image."""

    w1: float = _ranged(1.0, 0, 1e6)
    w2: float = _ranged(1.0, 0, 1e6)
    gamma_alpha: float = _ranged(30.0, 1e-3, 1e6)
    gamma_beta: float = _ranged(10.0, 1e-3, 1e6)  # in grey levels of 0..255, so never scaled with the image
    gamma_gamma: float = _ranged(3.0, 1e-3, 1e6)
    iterations: int = _ranged(10, 0, 10_000)  # the paper does not say
    max_side: int = _ranged(0, 0)  # larger images are scaled to this longest side for the CRF alone; 0: never


@dataclass(frozen=True)
class ForwardConfig:
    """Forward class maps and the backward maps that enhance them (notebook 05), Shimoda & Yanai, MIRU 2016, part 1.

    The slides leave all three open; the notebook compares the choices. Class map and foreground were taken after a look
    at their scores on 100 drawn validation images.
    """

    class_map: str = "softmax"  # probability of a class at a position, see wsseg_core.forward.class_maps
    combination: str = "product"
    foreground: str = "saliency"


@dataclass(frozen=True)
class ZoomOutConfig:
    """Zoom-out features of superpixels and their mi-SVM, see `forward.zoom_out`; the slides give none of the values."""

    superpixels: int = _ranged(300, 1, 65_535)  # asked for an image; SLIC may give fewer
    compactness: float = _ranged(10.0, 1e-6, 1e6)  # of SLIC
    train_images: int = _ranged(2_000, 1)  # bags, drawn from the training images
    instances: int = _ranged(30, 1)  # superpixels kept of each bag, drawn at random, so that memory stays bounded
    cost: float = _ranged(0.01, 1e-9, 1e9)  # C of the linear SVM, on standardised features
    rounds: int = _ranged(10, 1, 10_000)  # of labelling and fitting, at most
    # Share of the bags that is kept from the SVM, to turn its values into probabilities.
    calibration_share: float = _ranged(0.25, 0, 0.9)


@dataclass(frozen=True)
class SuperpixelCrfConfig:
    """Contrast-weighted Potts model over neighbouring superpixels; its values are ours, the poster gives none."""

    weight: float = _ranged(1.0, 0, 1e9)
    # Distance of mean colours at which an edge starts to count, in grey levels of 0..255.
    gamma_beta: float = _ranged(20.0, 1e-3, 1e6)


@dataclass(frozen=True)
class CamConfig:
    """Class activation maps and their classifier (notebook 06): Zhou et al., CVPR 2016, with the values of PSA."""

    blocks: int = _ranged(5, 2, 5)  # of VGG-16, or the last stage; fewer see less of the image at once
    # Of the convolution before the class scores; 0: the classifier's own map, nothing is trained.
    channels: int = _ranged(1024, 0, 65_536)
    stride: int = _ranged(8, 1, 32)  # of the maps; pools beyond it do not stride
    image_size: int = _ranged(448, 32, 8192)
    optimizer: str = "sgd"
    learning_rate: float = _ranged(0.01, 0, 10)
    schedule: str = "one_cycle"  # PSA: polynomial decay
    weight_decay: float = _ranged(5e-4, 0, 10)
    batch_size: int = _ranged(16, 1)
    steps: int = _ranged(10_000, 1)  # PSA: 15 epochs
    resize_range: tuple[float, float] = _ranged((0.7, 1.4), 0.05, 10)
    scales: tuple[float, ...] = _ranged((0.5, 1.0, 1.5, 2.0), 0.05, 10)  # of image_size
    flip: bool = True  # each also mirrored
    alpha: float = _ranged(16.0, 1e-3, 1000)  # of the background score (1 - max CAM)^alpha, from which the walk starts


@dataclass(frozen=True)
class SeedCrfConfig(CrfConfig):
    """The dense CRF of the affinity labels, the seeds and the networks that learn from them: PSA's released code."""

    w1: float = _ranged(10.0, 0, 1e6)
    w2: float = _ranged(3.0, 0, 1e6)
    gamma_alpha: float = _ranged(80.0, 1e-3, 1e6)
    gamma_beta: float = _ranged(13.0, 1e-3, 1e6)


@dataclass(frozen=True)
class AffinityConfig:
    """Pixel affinity and the random walk (notebook 06): Ahn & Kwak, CVPR 2018 (PSA)."""

    low_alpha: float = _ranged(4.0, 1e-3, 1000)  # strong background: what is an object all the same is certain
    high_alpha: float = _ranged(32.0, 1e-3, 1000)  # weak background: what is background all the same is certain
    stride: int = _ranged(8, 1, 32)
    width: int = _ranged(0, 0, 1024)  # 1/7 of the features' channels; 0: that of the classifier, 64 in VGG-16
    frozen_trunk: bool = False  # only the new layers learn
    radius: int = _ranged(5, 2, 64)  # of the neighbourhood, positions at this stride
    learning_rate: float = _ranged(0.01, 0, 10)  # of the backbone; the new layers learn ten times faster
    batch_size: int = _ranged(8, 1)
    steps: int = _ranged(10_000, 1)  # PSA: 8 epochs
    beta: float = _ranged(8.0, 0, 1000)
    walk_steps: int = _ranged(256, 0)


@dataclass(frozen=True)
class SegmentationConfig:
    """A segmentation network trained on pseudo labels (notebooks 06 to 08), SSDD's values."""

    head: str = "largefov"  # or "stages", which reads three stages
    frozen_trunk: bool = False  # only the head learns
    channels: int = _ranged(1024, 1, 65_536)  # of the head
    dilation: int = _ranged(12, 1, 64)  # of its large field of view, positions at stride 8
    dropout: float = _ranged(0.5, 0, 0.99)
    crop: int = _ranged(448, 16, 8192)
    # Ratio to the crop of the longest side: 448 to 512.
    resize_range: tuple[float, float] = _ranged((1.0, 1.15), 0.05, 10)
    optimizer: str = "sgd"
    learning_rate: float = _ranged(1e-3, 0, 10)  # of the encoder; the head learns ten times faster
    weight_decay: float = _ranged(2e-4, 0, 10)
    batch_size: int = _ranged(8, 1)
    schedule: str = "cosine"  # SSDD; or "polynomial", PSA's
    steps: int = _ranged(20_000, 1)  # SSDD: 16 epochs
    scales: tuple[float, ...] = _ranged((0.75, 1.0, 1.25), 0.05, 10)  # of inference, each also mirrored
    supervised: bool = False  # also train on true masks, as an upper bound


@dataclass(frozen=True)
class DifferenceConfig:
    """Difference detection (notebooks 07 and 08), Shimoda & Yanai, ICCV 2019 (SSDD); its released code's values.

    The biases are probabilities: see `wsseg_core.refine.difference.Biases`.
    """

    channels: int = _ranged(256, 1, 65_536)  # inside the detector
    # Of the grid on which detectors look, masks are merged while a network learns from them, and its loss is taken.
    stride: int = _ranged(4, 1, 8)
    # Bias of the advice wherever masks are refined to be learnt from at once.
    training_advice: float = _ranged(0.4, 0, 1)
    seed_advice: float = _ranged(0.1, 0, 1)  # the same where the refined masks become the seed of the dynamic stage
    seed_background: float = _ranged(0.1, 0, 1)  # bias of the background there


@dataclass(frozen=True)
class DynamicConfig:
    """The dynamic stage of SSDD (notebook 08); what is not here is as in SegmentationConfig."""

    # Ratio to the crop of the longest side: 512 to 768.
    resize_range: tuple[float, float] = _ranged((1.15, 1.71), 0.05, 10)
    learning_rate: float = _ranged(1e-3, 0, 10)  # of the encoder; heads and detectors learn ten times faster
    steps: int = _ranged(54_000, 1)  # SSDD: 41 epochs
    # The first of them: detectors learn, while the branches go on learning the fixed seed.
    warmup_steps: int = _ranged(0, 0)
    # Of the second detector: "batch", SSDD's code: every image counts, changed and unchanged pixels are balanced over
    # the batch; or "image", as of the first: balanced in each image, without those one of whose classes collapses.
    second_loss: str = "batch"
    # Of the pixels that the CRF sees: 4 is SSDD's (112 of 448).
    crf_stride: int = _ranged(1, 1, 16)

    def __post_init__(self) -> None:
        _check_ranges(self, "dynamic")
        if not 0 <= self.warmup_steps < self.steps:
            raise WorkbookError(
                f"dynamic.warmup_steps = {self.warmup_steps}: use 0 or more, fewer than dynamic.steps = {self.steps}"
            )


@dataclass(frozen=True)
class SelfTrainingConfig:
    """Self-training (notebook 09); what is not here is as in SegmentationConfig."""

    epochs: int = _ranged(5, 1, 1000)
    steps: int = _ranged(1_000, 1)  # of each epoch
    learning_rate: float = _ranged(1e-3, 0, 10)  # of the encoder; the head learns ten times faster
    channels: int = _ranged(512, 1, 65_536)  # of the head, as in DFN
    floor: float = _ranged(0.25, 0, 1)  # share of its earlier area below which a class keeps its pixels

    def __post_init__(self) -> None:
        _check_ranges(self, "self_training")


@dataclass(frozen=True)
class OtherNetworkConfig:
    """A second classifier, to show that the method is not tied to VGG-16; all else is as in ClassifierConfig."""

    architecture: str = "resnet18"
    width: int = _ranged(64, 1, 1024)  # channels of the first stage; ResNet-18 has 64
    weights: str = "imagenet"
    steps: int = _ranged(20_000, 0)
    # Groups of equation 5, at the strides of VGG's blocks 3 to 5. At layer4.1, which the 1×1 scores are computed from,
    # the gradient is the same at every position.
    layers: tuple[tuple[str, ...], ...] = (
        ("layer1.0", "layer1.1"),
        ("layer2.0", "layer2.1"),
        ("layer3.0", "layer3.1"),
    )


@dataclass(frozen=True)
class SweepConfig:
    """What notebooks 03 and 04 vary, and how scores are given an interval."""

    alphas: tuple[float, ...] = _ranged((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 0, 1000)
    min_candidates: tuple[int, ...] = _ranged((0, 1, 2, 3, 4, 5, 10, 15), 0)
    crf_train_images: int = _ranged(100, 1)  # M, the train images whose masks choose the CRF values
    crf_w1: tuple[float, ...] = _ranged((1, 2, 4), 0, 1e6)
    crf_w2: tuple[float, ...] = _ranged((1, 3), 0, 1e6)
    crf_gamma_alpha: tuple[float, ...] = _ranged((15, 30, 60), 1e-3, 1e6)
    crf_gamma_beta: tuple[float, ...] = _ranged((5, 10, 20), 1e-3, 1e6)
    crf_gamma_gamma: tuple[float, ...] = _ranged((1, 3), 1e-3, 1e6)
    # Irregularity of errors that are made from true masks (notebook 07), and the steps of each training on them.
    irregularity: tuple[float, ...] = _ranged((0, 0.25, 0.5, 0.75, 1), 0, 1)
    irregular_steps: int = _ranged(5_000, 1)
    bootstrap_samples: int = _ranged(1000, 1)
    example_images: int = _ranged(5, 1)  # the same few pictures in every notebook


@dataclass(frozen=True)
class FactorsConfig:
    """The factor lab (notebook 11): the ends between which each factor of the scenes is turned, and a study of them.

    The study trains once with the scenes of the profile, and once with each end of each factor.
    """

    train_images: int = _ranged(240, 1, 99_999)  # drawn for each training
    val_images: int = _ranged(80, 1, 99_999)
    steps: int = _ranged(300, 1)  # of each phase that the classifier's own recipe has, at most
    occlusion: tuple[float, float] = _ranged((0.0, 1.0), 0, 1)
    camouflage: tuple[float, float] = _ranged((0.0, 1.0), 0, 1)
    head_to_body: tuple[float, float] = _ranged((0.5, 1.5), 0.3, 2)
    cooccurrence: tuple[float, float] = _ranged((0.0, 1.0), 0, 1)
    clutter: tuple[int, int] = _ranged((0, 12), 0, 20)
    noise: tuple[float, float] = _ranged((0.0, 40.0), 0, 100)


@dataclass(frozen=True)
class Profile:
    """All stages of one run."""

    name: str = "voc"
    meaningful: bool = True  # false: a test of the machinery, whose pages say so, and no claim gets a verdict
    data: DataConfig = field(default_factory=DataConfig)
    toyvoc: ToyVocConfig = field(default_factory=ToyVocConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    saliency: SaliencyConfig = field(default_factory=SaliencyConfig)
    subtraction: SubtractionConfig = field(default_factory=SubtractionConfig)
    crf: CrfConfig = field(default_factory=CrfConfig)
    forward: ForwardConfig = field(default_factory=ForwardConfig)
    zoomout: ZoomOutConfig = field(default_factory=ZoomOutConfig)
    superpixel_crf: SuperpixelCrfConfig = field(default_factory=SuperpixelCrfConfig)
    other_network: OtherNetworkConfig = field(default_factory=OtherNetworkConfig)
    cam: CamConfig = field(default_factory=CamConfig)
    affinity: AffinityConfig = field(default_factory=AffinityConfig)
    seed_crf: SeedCrfConfig = field(default_factory=SeedCrfConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    difference: DifferenceConfig = field(default_factory=DifferenceConfig)
    dynamic: DynamicConfig = field(default_factory=DynamicConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    sweeps: SweepConfig = field(default_factory=SweepConfig)
    factors: FactorsConfig = field(default_factory=FactorsConfig)


def available_profiles() -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.toml"))


def profile_path(name: str) -> Path:
    """The absolute path of a profile, by its name or by the path of a TOML file, relative to the current folder."""
    return Path(name).resolve() if name.endswith(".toml") else PROFILE_FOLDER / f"{name}.toml"


def load_profile(name: str) -> Profile:
    """Read a profile by its name, or by the path of a TOML file of the user's own.

    Raises:
        WorkbookError: no such profile, a file that is not TOML, an unknown key (the nearest known one is
            named), or a value of the wrong type or out of its range.
    """
    path = profile_path(name)
    try:
        known = path.is_file()
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig")) if known else {}
    except OSError as error:
        raise WorkbookError(f"{path}: cannot be read ({error.strerror}); mend its name or its permissions") from None
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or of a number of thousands of digits
        raise WorkbookError(f"{path}: not a TOML file ({error}); mend the line or copy a profile that works") from None
    if not known:
        raise WorkbookError(
            f"no profile {name!r}; use one of {', '.join(available_profiles())} or a path to a .toml file"
        )
    return _build(Profile, tables | {"name": path.stem}, str(path), ())


def with_tables(profile: Profile, tables: Mapping[str, dict[str, Any]], source: str) -> Profile:
    """A profile with the tables that a file has kept, by name, in place of its own; keys that they lack have defaults.

    Raises:
        WorkbookError: naming `source`: a table is not known, or one of the errors of `load_profile`.
    """
    kept = _build(Profile, {"name": profile.name, **tables}, source, ())
    return dataclasses.replace(profile, **{name: getattr(kept, name) for name in tables})


def _build(cls: Any, values: dict[str, Any], source: str, where: tuple[str, ...]) -> Any:
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        full = ".".join((*where, key))
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0)
            raise WorkbookError(f"{source}: unknown key {full!r}; the nearest known one is {near[0]!r}")
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise WorkbookError(f"{source}: {full!r} must be a table of values, not {value!r}")
            arguments[key] = _build(kind, value, source, (*where, key))
        else:
            arguments[key] = _typed(kind, value, source, full)
    try:
        table = cls(**arguments)
        _check_ranges(table, ".".join(where))
    except WorkbookError as error:
        raise WorkbookError(f"{source}: {error}") from None
    return table


def _check_ranges(table: Any, name: str) -> None:
    """Hold every number of a table against the range of its field; two numbers are a smallest and a largest one."""
    for entry in dataclasses.fields(table):
        if "range" not in entry.metadata:
            continue
        value, (low, high) = getattr(table, entry.name), entry.metadata["range"]
        values = value if isinstance(value, tuple) else (value,)
        if not all(
            isinstance(number, int | float) and low <= number <= high and number < math.inf for number in values
        ):
            wanted = f"a number in {low}..{high}" if high < math.inf else f"{low} or more"
            raise WorkbookError(f"{name}.{entry.name} = {value!r}: use {wanted}")
        if not values and not entry.metadata["empty"]:
            raise WorkbookError(f"{name}.{entry.name} is empty: give at least one value")
        pair = typing.get_args(entry.type)[1:] in ((int,), (float,))
        if pair and not (len(values) == 2 and values[0] <= values[1]):
            raise WorkbookError(f"{name}.{entry.name} = {value!r}: use the smallest, then the largest value")


def _typed(kind: Any, value: Any, source: str, full: str) -> Any:
    """Check one value against its annotation; whole numbers pass as floats, lists become tuples."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, list) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise WorkbookError(f"{source}: {full!r} must be a list like {_example(kind)}, not {value!r}")
        return tuple(_typed(inner[0], item, source, full) for item in value)
    if kind is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not kind:
        raise WorkbookError(f"{source}: {full!r} must be of type {kind.__name__}, not {value!r}")
    return value


def _example(kind: Any) -> str:
    return "[" + ", ".join(getattr(item, "__name__", "...") for item in typing.get_args(kind)) + "]"
