"""Pictures of other than three channels: their normalisation, and weights that knew RGB."""

from collections.abc import Sequence

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch import Tensor

from mmsolov2.errors import InputError
from mmsolov2.registry import MODELS


def spread_bands(weight: Tensor, in_channels: int) -> Tensor:
    """A convolution's weight (D, C, k, k) for other inputs: (D, in_channels, k, k).

    Each band takes the weights of one of the C channels, in turn, times C / in_channels: bands of
    equal values give what channels of that value gave, where C divides their number.

    >>> spread_bands(torch.tensor([2.0, 4, 6]).view(1, 3, 1, 1), in_channels=6).flatten().tolist()
    [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]
    """
    channels = torch.arange(in_channels, device=weight.device) % weight.shape[1]
    return weight[:, channels] * (weight.shape[1] / in_channels)


def is_of_other_bands(value: Tensor, own: Tensor) -> bool:
    """Whether weights (D, C, k, k) of RGB images differ from others in the number C alone."""
    if value.ndim != 4 or value.shape[1] != 3 or own.ndim != 4:
        return False
    return own.shape[1] != 3 and (value.shape[0], *value.shape[2:]) == (
        own.shape[0],
        *own.shape[2:],
    )


@MODELS.register_module()
class BandsDataPreprocessor(DetDataPreprocessor):
    """mmdet's DetDataPreprocessor for images (C, H, W) of any number of bands.

    Args:
        mean: of each band, or one for all.
        std: of each band, or one for all.
        settings: those of DetDataPreprocessor, but for the order of colours, which bands lack.

    Raises:
        ValueError: if mean and std are not as many, a std is not above 0, or colours are reordered.
    """

    def __init__(
        self,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **settings: object,
    ) -> None:
        super().__init__(**settings)
        if self._channel_conversion:
            raise ValueError(
                'BandsDataPreprocessor: bands have no order of colours: set bgr_to_rgb=False and '
                'rgb_to_bgr=False'
            )
        mean, std = mean or [], std or []
        if len(mean) != len(std) or not all(one > 0 for one in std):
            raise ValueError(
                f'BandsDataPreprocessor: mean={mean} and std={std} must have a value a band each, '
                'std above 0'
            )
        self._enable_normalize = bool(mean)
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise and pad images, n of (C, H, W): ``inputs`` (n, C, H, W).

        Raises:
            InputError: if mean and std are of another number of bands.
        """
        for image in data['inputs']:
            if len(self.mean) > 1 and len(image) != len(self.mean):
                raise InputError(
                    f'BandsDataPreprocessor: an image has {len(image)} bands, but mean and std '
                    f'are of {len(self.mean)}: give a value for each band of the files'
                )
        return super().forward(data, training)
