"""From an image of any size to what a network reads, and back."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Mean and standard deviation of ImageNet's RGB values in [0, 1], which torchvision's weights expect.
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def normalise(image: np.ndarray) -> Tensor:
    """Turn an RGB image, uint8 (H, W, 3), into float32 (3, H, W) with about zero mean and unit variance."""
    return (torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) / 255 - MEAN) / STD


def resize_and_pad(image: np.ndarray, size: int) -> Tensor:
    """Scale the longest side to `size` and pad below and to the right, DCSM 3.2.

    Args:
        image: uint8 (H, W, 3), any size from 1×1.
        size: side of the result in pixels.

    Returns:
        float32 (3, size, size), normalised. The padding is 0 after normalisation, which is the mean colour.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    target = max(1, round(height * scale)), max(1, round(width * scale))
    if target != (height, width):
        image = cv2.resize(image, target[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return F.pad(normalise(image), (0, size - target[1], 0, size - target[0]))


def unpad(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps of a padded square image back to the pixels of the image.

    Args:
        maps: float (K, h, h), any resolution.
        size: (H, W) of the image.

    Returns:
        float (K, H, W): up-sampled bilinearly to the longest side and cropped, the inverse of `resize_and_pad`.
    """
    height, width = size
    longest = max(height, width)
    if maps.shape[-2:] != (longest, longest):
        maps = F.interpolate(maps[None], (longest, longest), mode="bilinear", align_corners=False)[0]
    return maps[..., :height, :width]
