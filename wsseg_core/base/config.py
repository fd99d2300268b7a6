"""Every number that a run depends on: one frozen dataclass a stage, and profiles that fill them in.

A profile is a TOML file with one table a stage. Whatever it leaves out keeps the default below, which is the
value of the published setting unless the comment beside it says otherwise. Sources: DCSM is Shimoda & Yanai,
"Distinct Class-specific Saliency Maps for Weakly Supervised Semantic Segmentation", ECCV 2016.
"""

import dataclasses
import difflib
import tomllib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsseg_core.base.errors import WorkbookError

PROFILE_FOLDER = Path(__file__).parents[1] / "profiles"


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and which of them are used."""

    source: str = "voc"  # "voc": a devkit on disk; "toyvoc": one that is drawn when it is missing
    devkit: str = "data/VOCdevkit/VOC2012"
    train_split: str = "train_aug"
    val_split: str = "val"
    image_size: int = 500  # the longest side is scaled to this, the rest is padded (DCSM 3.2)
    max_train_images: int = 0  # 0: all of them
    max_val_images: int = 0


def _ranged(default: Any, low: float, high: float) -> Any:
    """A field whose value, or each of whose values, must lie in low..high."""
    return field(default=default, metadata={"range": (low, high)})


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
        for entry in dataclasses.fields(self):
            value, (low, high) = getattr(self, entry.name), entry.metadata["range"]
            values = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(number, int | float) and low <= number <= high for number in values):
                raise WorkbookError(f"toyvoc.{entry.name} = {value!r}: use a number in {low}..{high}")
        if not 1 <= len(self.object_counts) <= 3 or abs(sum(self.object_counts) - 1) > 1e-6:
            raise WorkbookError(
                f"toyvoc.object_counts = {self.object_counts!r}: use one to three probabilities that add up to 1"
            )
        if len(self.object_size) != 2 or self.object_size[0] > self.object_size[1]:
            raise WorkbookError(f"toyvoc.object_size = {self.object_size!r}: use the smallest, then the largest ratio")


@dataclass(frozen=True)
class ClassifierConfig:
    """Multi-label classifier, DCSM 3.2 and 4.2."""

    architecture: str = "vgg16"  # or "resnet18", or "timm:NAME" for any convolutional network of timm
    width: int = 64  # channels of block 1; VGG-16 has 64
    batch_norm: bool = False
    fc_channels: int = 4096
    fc6_kernel: int = 7
    dropout: float = 0.5
    stride: int = 32  # of the score map; below it, convolutions are dilated instead
    pooling: str = "max"  # of the score map over the image; "average" learns faster above a frozen trunk
    weights: str = "imagenet"  # of torchvision, timm or a package; or "random", or a path to a checkpoint
    optimizer: str = "sgd"  # "sgd" or "adamw"
    learning_rate: float = 1e-5
    schedule: str = "constant"  # "constant" or "one_cycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 2
    head_steps: int = 30_000  # on the layers above pool5 only
    steps: int = 20_000  # then on all layers; 0: the trunk stays as it is
    train_from: int = 1  # of those, the stage from which on layers learn
    frozen_batch_norm: bool = False  # in those; while the head alone learns it always is
    resize_range: tuple[float, float] = (0.7, 1.4)  # ratio to image_size, drawn once a batch
    flip: bool = True  # not in the paper
    threshold: float = 0.5  # a class is detected above this score (DCSM 3.3)
    precision: str = "auto"  # "float32", "bfloat16", or "auto": bfloat16 where the hardware has it
    checkpoint_every: int = 500
    validate_every: int = 2_000
    workers: int = 2  # processes that read and decode images


@dataclass(frozen=True)
class FeaturesConfig:
    """Maps of a trunk that does not learn, computed once for all images (`classify.features`). Not in the papers."""

    sizes: tuple[
        int, ...
    ] = ()  # sides of padded inputs, for the classifier's head and CAMs; none: the trunk runs each time
    dense_size: int = 0  # side of those for pixel affinities and segmentation; 0: the trunk runs each time


@dataclass(frozen=True)
class SaliencyConfig:
    """Gradients at intermediate layers, DCSM 3.3."""

    sizes: tuple[int, ...] = (400, 500, 600)  # S of equation 5, as input sizes in pixels
    other_sizes: tuple[int, ...] = (300, 700, 800)  # the rest of table 3
    blocks: tuple[int, ...] = (3, 4, 5)  # L of equation 5: all convolutions of these blocks of VGG-16, or these stages
    layers: tuple[tuple[str, ...], ...] = ()  # L by name instead, in groups that count once each
    max_classes: int = 15  # maps kept an image, for table 4's largest N
    precision: str = "float32"
    batch_size: int = 1


@dataclass(frozen=True)
class SubtractionConfig:
    """Equations 4 and 5 of DCSM."""

    alpha: float = 3.0
    min_candidates: int = 3  # N of table 4
    order: str = "subtract_then_normalise"  # the paper leaves it open; see wsseg_core.saliency.subtraction
    simonyan_alpha: float = 8.0  # best alpha of the input-gradient baseline (table 1)


@dataclass(frozen=True)
class CrfConfig:
    """Dense CRF, DCSM 3.4 and 4.2. Kernel widths gamma_alpha and gamma_gamma are in pixels of a 500-pixel image."""

    w1: float = 1.0
    w2: float = 1.0
    gamma_alpha: float = 30.0
    gamma_beta: float = 10.0  # in grey levels of 0..255, so never scaled with the image
    gamma_gamma: float = 3.0
    iterations: int = 10  # the paper does not say


@dataclass(frozen=True)
class ForwardConfig:
    """Forward class maps and the backward maps that enhance them (notebook 05), Shimoda & Yanai, MIRU 2016, part 1.

    The slides leave all three open; the notebook compares the choices. Class map and foreground were taken after a look
    at their scores on 100 toy validation images.
    """

    class_map: str = "softmax"  # probability of a class at a position, see wsseg_core.forward.class_maps
    combination: str = "product"
    foreground: str = "saliency"


@dataclass(frozen=True)
class ZoomOutConfig:
    """Zoom-out features of superpixels and their mi-SVM, see `forward.zoom_out`; the slides give none of the values."""

    superpixels: int = 300  # asked for an image; SLIC may give fewer
    compactness: float = 10.0  # of SLIC
    train_images: int = 2_000  # bags, drawn from the training images
    instances: int = 30  # superpixels kept of each bag, drawn at random, so that memory stays bounded
    cost: float = 0.01  # C of the linear SVM, on standardised features
    rounds: int = 10  # of labelling and fitting, at most
    calibration_share: float = 0.25  # of the bags, kept from the SVM to turn its values into probabilities


@dataclass(frozen=True)
class SuperpixelCrfConfig:
    """Contrast-weighted Potts model over neighbouring superpixels; its values are ours, the poster gives none."""

    weight: float = 1.0
    gamma_beta: float = 20.0  # in grey levels of 0..255, distance of mean colours at which an edge starts to count


@dataclass(frozen=True)
class CamConfig:
    """Class activation maps and their classifier (notebook 06): Zhou et al., CVPR 2016, with the values of PSA."""

    blocks: int = 5  # of VGG-16, or the last stage; fewer see less of the image at once
    channels: int = 1024  # of the convolution before the class scores; 0: the classifier's own map, nothing is trained
    stride: int = 8  # of the maps; pools beyond it do not stride
    image_size: int = 448
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    schedule: str = "one_cycle"  # PSA: polynomial decay
    weight_decay: float = 5e-4
    batch_size: int = 16
    steps: int = 10_000  # PSA: 15 epochs
    resize_range: tuple[float, float] = (0.7, 1.4)
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # of image_size
    flip: bool = True  # each also mirrored
    alpha: float = 16.0  # of the background score (1 - max CAM)^alpha, from which the walk starts


@dataclass(frozen=True)
class SeedCrfConfig(CrfConfig):
    """The dense CRF of the affinity labels, the seeds and the networks that learn from them: PSA's released code."""

    w1: float = 10.0
    w2: float = 3.0
    gamma_alpha: float = 80.0
    gamma_beta: float = 13.0


@dataclass(frozen=True)
class AffinityConfig:
    """Pixel affinity and the random walk (notebook 06): Ahn & Kwak, CVPR 2018 (PSA)."""

    low_alpha: float = 4.0  # strong background: what is an object all the same is certain
    high_alpha: float = 32.0  # weak background: what is background all the same is certain
    stride: int = 8
    width: int = 0  # 1/7 of the features' channels; 0: that of the classifier, 64 in VGG-16
    frozen_trunk: bool = False  # only the new layers learn
    radius: int = 5  # of the neighbourhood, positions at this stride
    learning_rate: float = 0.01  # of the backbone; the new layers learn ten times faster
    batch_size: int = 8
    steps: int = 10_000  # PSA: 8 epochs
    beta: float = 8.0
    walk_steps: int = 256


@dataclass(frozen=True)
class SegmentationConfig:
    """A segmentation network trained on pseudo labels (notebooks 06 to 08), SSDD's values."""

    head: str = "largefov"  # or "stages", which reads three stages
    frozen_trunk: bool = False  # only the head learns
    channels: int = 1024  # of the head
    dilation: int = 12  # of its large field of view, positions at stride 8
    dropout: float = 0.5
    crop: int = 448
    resize_range: tuple[float, float] = (1.0, 1.15)  # ratio to the crop of the longest side: 448 to 512
    optimizer: str = "sgd"
    learning_rate: float = 1e-3  # of the encoder; the head learns ten times faster
    weight_decay: float = 2e-4
    batch_size: int = 8
    steps: int = 20_000  # SSDD: 16 epochs
    scales: tuple[float, ...] = (0.75, 1.0, 1.25)  # of inference, each also mirrored
    supervised: bool = False  # also train on true masks, as an upper bound: the one place where training reads them


@dataclass(frozen=True)
class DifferenceConfig:
    """Difference detection (notebooks 07 and 08), Shimoda & Yanai, ICCV 2019 (SSDD); its released code's values.

    The biases are probabilities: see `wsseg_core.refine.difference.Biases`.
    """

    channels: int = 256  # inside the detector
    training_advice: float = 0.4  # bias of the advice wherever masks are refined to be learnt from at once
    seed_advice: float = 0.1  # the same where the refined masks become the seed of the dynamic stage
    seed_background: float = 0.1  # bias of the background there


@dataclass(frozen=True)
class DynamicConfig:
    """The dynamic stage of SSDD (notebook 08); what is not here is as in SegmentationConfig."""

    resize_range: tuple[float, float] = (1.15, 1.71)  # ratio to the crop of the longest side: 512 to 768
    learning_rate: float = 1e-3  # of the encoder; heads and detectors learn ten times faster
    steps: int = 54_000  # SSDD: 41 epochs
    warmup_steps: int = 0  # the first of them: detectors learn, while the branches go on learning the fixed seed

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.steps:
            raise WorkbookError(
                f"dynamic.warmup_steps = {self.warmup_steps}: use 0 or more, fewer than dynamic.steps = {self.steps}"
            )


@dataclass(frozen=True)
class OtherNetworkConfig:
    """A second classifier, to show that the method is not tied to VGG-16; all else is as in ClassifierConfig."""

    architecture: str = "resnet18"
    width: int = 64  # channels of the first stage; ResNet-18 has 64
    weights: str = "imagenet"
    steps: int = 20_000
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

    alphas: tuple[float, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    min_candidates: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 10, 15)
    crf_train_images: int = 100  # M, the train images whose masks choose the CRF values
    crf_w1: tuple[float, ...] = (1, 2, 4)
    crf_w2: tuple[float, ...] = (1, 3)
    crf_gamma_alpha: tuple[float, ...] = (15, 30, 60)
    crf_gamma_beta: tuple[float, ...] = (5, 10, 20)
    crf_gamma_gamma: tuple[float, ...] = (1, 3)
    bootstrap_samples: int = 1000
    example_images: int = 5  # the same few pictures in every notebook


@dataclass(frozen=True)
class Profile:
    """All stages of one run."""

    name: str = "voc"
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
    sweeps: SweepConfig = field(default_factory=SweepConfig)


def available_profiles() -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    return sorted(path.stem for path in PROFILE_FOLDER.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """Read a profile by its name, or by the path of a TOML file of the user's own.

    Raises:
        WorkbookError: no such profile, a file that is not TOML, an unknown key (the nearest known one is
            named), or a value of the wrong type.
    """
    path = Path(name) if name.endswith(".toml") else PROFILE_FOLDER / f"{name}.toml"
    if not path.is_file():
        raise WorkbookError(
            f"no profile {name!r}; use one of {', '.join(available_profiles())} or a path to a .toml file"
        )
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkbookError(f"{path}: not a TOML file ({error}); mend the line or copy a profile that works") from None
    return _build(Profile, tables | {"name": path.stem}, str(path), ())


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
        return cls(**arguments)
    except WorkbookError as error:  # a value out of its range
        raise WorkbookError(f"{source}: {error}") from None


def _typed(kind: Any, value: Any, source: str, full: str) -> Any:
    """Check one value against its annotation; whole numbers pass as floats, lists become tuples."""
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if not isinstance(value, list) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise WorkbookError(f"{source}: {full!r} must be a list like {_example(kind)}, not {value!r}")
        return tuple(_typed(inner[0], item, source, full) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise WorkbookError(f"{source}: {full!r} must be of type {kind.__name__}, not {value!r}")
    return value


def _example(kind: Any) -> str:
    return "[" + ", ".join(getattr(item, "__name__", "...") for item in typing.get_args(kind)) + "]"
