"""Views of images: as they are, mirrored, and of other sizes. What is found is averaged."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

MaskFeatures = Tensor | Sequence[Tensor]  # (B, E, H/4, W/4), or one a level


class Outputs(NamedTuple):
    """What the network makes of images."""

    category_logits: Sequence[Tensor]  # (B, C, S, S) a level
    kernels: Sequence[Tensor]  # (B, D + P, S, S) a level
    mask_features: MaskFeatures


class View(NamedTuple):
    """The network's outputs of a view."""

    outputs: Outputs
    is_mirrored: bool = False  # left and right are exchanged

    def categories(self) -> list[Tensor]:
        """Category probabilities (B, C, S, S) float32 a level, turned back."""
        levels = [level.float().sigmoid() for level in self.outputs.category_logits]
        return [level.flip(-1) for level in levels] if self.is_mirrored else levels


class Views:
    """Which views of an image are predicted together.

    Args:
        flip: see each size mirrored too, left and right.
        scales: sizes beside the images' own, as factors of it.

    Raises:
        ValueError: if flip is no switch, or a scale no factor from 0.1 to 10.
    """

    def __init__(self, *, flip: bool = False, scales: Sequence[float] = ()) -> None:
        if not isinstance(flip, bool):
            raise ValueError(f'SOLOv2: tta.flip must be True or False, not {flip!r}')
        if not all(is_scale(scale) for scale in scales):
            raise ValueError(f'SOLOv2: tta.scales must be factors from 0.1 to 10, not {scales!r}')
        self.flips = (False, True) if flip else (False,)
        self.scales = tuple(scale for scale in scales if scale != 1)

    def __call__(self, images: Tensor, divisor: int) -> Iterator[tuple[Tensor, bool]]:
        """Each view of images (B, 3, H, W), and whether it is mirrored; as they are comes first.

        Sides of other sizes are rounded to a divisor.
        """
        for scale in (1, *self.scales):
            sides = [round(side * scale / divisor) * divisor for side in images.shape[2:]]
            size = [max(side, divisor) for side in sides]
            sized = images if scale == 1 else F.interpolate(images, size, mode='bilinear')
            for is_mirrored in self.flips:
                yield (sized.flip(-1) if is_mirrored else sized), is_mirrored


def is_scale(value: object) -> bool:
    """Whether a value can be a factor of a size."""
    return isinstance(value, int | float) and 0.1 <= value <= 10
