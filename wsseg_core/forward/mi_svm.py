"""mi-SVM: which instances of a bag show a class, learnt from the labels of bags alone.

Andrews, Tsochantaridis & Hofmann, "Support vector machines for multiple-instance learning", NIPS 2002, section 3. Every
instance of a positive bag starts as positive. Then two steps alternate: fit a linear SVM, and give the instances of
positive bags the sign of its value; a positive bag that has no positive instance left keeps its largest one. Instances
of negative bags are negative throughout.

The values become probabilities by Platt's sigmoid ("Probabilistic outputs for support vector machines", 1999), fitted
on bags that the SVM has not seen. The labels of instances are unknown there, too, so the value of a bag is the maximum
over its instances, just as the classifier's score of an image is the maximum over its positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from wsseg_core.base.config import ZoomOutConfig
from wsseg_core.base.errors import WorkbookError

# Of liblinear. At 0.001 a first fit of the toy profile takes 6.4 s instead of 2.7 s, and the share of positive values
# changes by less than 0.001 on instances of positive bags and of negative ones.
TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class Bags:
    """Instances, bag by bag.

    Attributes:
        features: float (N, D), of the instances.
        index: int64 (N,), the bag of each instance: 0..n-1, ascending, each number used.

    Raises:
        WorkbookError: the bags are numbered otherwise, or a feature is not finite.
    """

    features: np.ndarray
    index: np.ndarray

    def __post_init__(self) -> None:
        steps = np.diff(self.index, prepend=0)
        if len(self.index) != len(self.features) or steps[:1].any() or not np.isin(steps, (0, 1)).all():
            raise WorkbookError("mi-SVM: bags must be numbered 0, 1, 2, ... in order; build them with `Bags.of`")
        if not np.isfinite(self.features).all():
            raise WorkbookError("mi-SVM: a feature is infinite or NaN; check the weights of the network")

    @classmethod
    def of(cls, features: Sequence[np.ndarray]) -> "Bags":
        """Put bags together, each of them float (instances, D) with at least one instance."""
        return cls(np.concatenate(features), np.repeat(np.arange(len(features)), [len(bag) for bag in features]))

    def chosen(self, bags: np.ndarray) -> "Bags":
        """Some of the bags, numbered anew; they are chosen by bool (n,)."""
        instances = bags[self.index]
        return Bags(self.features[instances], (np.cumsum(bags) - 1)[self.index[instances]])

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Where the largest instance of each bag is, int64 (n,), by the values of all instances, float (N,)."""
        order = np.lexsort((values, self.index))
        return order[np.diff(self.index, append=-1) != 0]


@dataclass(frozen=True, eq=False)
class MiSvm:
    """What was learnt about one class.

    Attributes:
        weights: float32 (D,), of features as they come, not standardised.
        bias: float32 (1,). The probability of an instance x is the sigmoid of weights · x + bias; for a class that
            could not be learnt the bias is minus infinity and the probability 0.
        rounds: int64 (rounds, 3). Of each round: instances whose label flipped, instances that are positive now, and
            positive bags that had lost all of them and kept their largest.
        calibrated: bool (1,), whether Platt's sigmoid could be fitted; if not, it is the sigmoid of the SVM's value.
    """

    weights: np.ndarray
    bias: np.ndarray
    rounds: np.ndarray
    calibrated: np.ndarray

    @property
    def learnt(self) -> bool:
        """Whether the training bags showed images both with and without the class."""
        return bool(np.isfinite(self.bias).all())


@dataclass(frozen=True)
class MiSvms:
    """What was learnt about all classes.

    Attributes:
        classes: their names.
        svms: one a class, in this order.
    """

    classes: tuple[str, ...]
    svms: tuple[MiSvm, ...]

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes that no bag, or every bag, shown to the SVM has; their probability is 0 everywhere."""
        return tuple(name for name, svm in zip(self.classes, self.svms, strict=True) if not svm.learnt)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities of instances, float32 (N, C) in [0, 1], from their features, float (N, D).

        Each class is decided for itself, so that a row need not sum to 1.
        """
        weights = np.stack([svm.weights for svm in self.svms], axis=1)  # (D, C)
        return expit(features @ weights + np.concatenate([svm.bias for svm in self.svms]))

    def rounds(self) -> pd.DataFrame:
        """One line a class and round, from 1: `flips`, `positives` and `rescued`, as in `MiSvm.rounds`."""
        rows = [
            (name, number, *counts)
            for name, svm in zip(self.classes, self.svms, strict=True)
            for number, counts in enumerate(svm.rounds.tolist(), start=1)
        ]
        return pd.DataFrame(rows, columns=["class", "round", "flips", "positives", "rescued"])


def learn_class(bags: Bags, positive: np.ndarray, held_out: np.ndarray, config: ZoomOutConfig, seed: int) -> MiSvm:
    """Learn one class: standardise, fit the mi-SVM, calibrate it on bags that were kept from it.

    Standardisation and sigmoid are folded into the weights, so that a probability costs one product.

    Args:
        bags: n bags of raw features.
        positive: bool (n,), which of them are labelled with the class.
        held_out: bool (n,), which of them are for the calibration.
        config: `cost` and `rounds`.
        seed: of the SVM.

    Returns:
        The class; one that all or none of the bags for the SVM show is not an error, see `MiSvm.bias`.

    Raises:
        WorkbookError: a bad config.
    """
    fitted, labels = bags.chosen(~held_out), positive[~held_out]
    if labels.all() or not labels.any():
        nothing = np.zeros(bags.features.shape[1], np.float32)
        return MiSvm(nothing, np.array([-np.inf], np.float32), np.zeros((0, 3), np.int64), np.array([False]))
    scaler = StandardScaler(copy=False)
    standardised = scaler.fit_transform(fitted.features.astype(np.float64))  # liblinear computes in float64
    svm, rounds = fit_mi_svm(Bags(standardised, fitted.index), labels, config, seed)
    weights = svm.coef_[0] / scaler.scale_
    bias = svm.intercept_[0] - weights @ scaler.mean_
    unseen = bags.chosen(held_out)
    values = unseen.features @ weights + bias
    slope, offset, calibrated = fit_sigmoid(values[unseen.largest(values)], positive[held_out])
    folded_bias = np.array([slope * bias + offset], np.float32)
    return MiSvm((slope * weights).astype(np.float32), folded_bias, rounds, np.array([calibrated]))


def fit_mi_svm(bags: Bags, positive: np.ndarray, config: ZoomOutConfig, seed: int) -> tuple[LinearSVC, np.ndarray]:
    """Alternate between fitting a linear SVM and labelling the instances, until no label flips.

    Both classes of instances have the same weight in all, however many they are.

    Args:
        bags: n bags, float64 features of about unit variance.
        positive: bool (n,), at least one of each value.
        config: `cost`, C of the SVM, and `rounds`, the most there may be.
        seed: of the SVM.

    Returns:
        The SVM of the last round, and the history as `MiSvm.rounds` has it; the last round flips nothing unless
        `config.rounds` ended it.

    Raises:
        WorkbookError: cost or rounds are not above 0.
    """
    if not config.cost > 0 or config.rounds < 1:
        raise WorkbookError(
            f"zoomout.cost = {config.cost} and zoomout.rounds = {config.rounds} must be above 0; mend the profile"
        )
    labels = candidates = positive[bags.index]
    history: list[tuple[int, int, int]] = []
    while len(history) < config.rounds and not (history and history[-1][0] == 0):
        svm = LinearSVC(C=config.cost, class_weight="balanced", tol=TOLERANCE, random_state=seed)
        values = svm.fit(bags.features, labels).decision_function(bags.features)
        largest = bags.largest(values)
        lost = largest[positive & (values[largest] <= 0)]
        relabelled = candidates & (values > 0)
        relabelled[lost] = True
        history.append((int((relabelled != labels).sum()), int(relabelled.sum()), len(lost)))
        labels = relabelled
    return svm, np.array(history)


def fit_sigmoid(values: np.ndarray, positive: np.ndarray) -> tuple[float, float, bool]:
    """Platt's sigmoid: the probability of a positive is that of slope · value + offset.

    Its targets are not 0 and 1 but his (P + 1) / (P + 2) and 1 / (N + 2), P and N being the numbers of positives and
    negatives, which keeps the slope finite where a threshold parts them.

    Args:
        values: float (n,).
        positive: bool (n,).

    Returns:
        Slope, offset, and whether they were fitted; otherwise 1 and 0, because there are no positives, no negatives,
        or the positives do not have the larger values.
    """
    count = int(positive.sum())
    if not 0 < count < len(positive):
        return 1.0, 0.0, False
    targets = np.where(positive, (count + 1) / (count + 2), 1 / (len(positive) - count + 2))
    # Each value stands twice, as a positive and as a negative, and its target shares its weight between the two.
    model = LogisticRegression(C=np.inf).fit(
        np.tile(values, 2)[:, None], np.repeat([1, 0], len(values)), np.concatenate([targets, 1 - targets])
    )
    slope, offset = float(model.coef_[0, 0]), float(model.intercept_[0])
    return (slope, offset, True) if slope > 0 else (1.0, 0.0, False)
