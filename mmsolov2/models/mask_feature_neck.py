"""Mask features F: what every instance's kernel is convolved with."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsolov2.models.coordinates import append_coordinates
from mmsolov2.registry import MODELS

NORMAL_INIT = dict(type='Normal', layer='Conv2d', std=0.01)
GROUP_NORM = dict(type='GN', num_groups=32)


def upsample_to(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize features (B, C, h, w) to (B, C, *size), bilinearly; as they are if they fit."""
    if features.shape[-2:] == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode='bilinear', align_corners=False)


@MODELS.register_module()
class MaskFeatureNeck(BaseModule):
    """Unified mask features (B, out_channels, H/4, W/4) of pyramid levels (B, in_channels, h, w).

    Each level is convolved and doubled in size in turn until it has the size of the first; the sum
    goes through a 1x1 convolution. The deepest level carries the coordinates (SOLOv2, section 3.2
    and figure 3). Parameter names are those of the published weights.

    Args:
        in_channels: channels of every pyramid level.
        feat_channels: channels inside.
        out_channels: channels E of the mask features.
        start_level: the first pyramid level that is used.
        end_level: the last one; it gets the coordinates.
        use_coords: append x and y to the deepest level (table 3b).

    Raises:
        ValueError: if the levels are not 0 <= start_level <= end_level.
    """

    def __init__(
        self,
        *,
        in_channels: int = 256,
        feat_channels: int = 128,
        out_channels: int = 256,
        start_level: int = 0,
        end_level: int = 3,
        use_coords: bool = True,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = GROUP_NORM,
        init_cfg: dict | list | None = NORMAL_INIT,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if not 0 <= start_level <= end_level:
            raise ValueError(
                f'MaskFeatureNeck: needs 0 <= start_level <= end_level, not {start_level} and '
                f'{end_level}'
            )
        self.start_level = start_level
        self.end_level = end_level
        self.use_coords = use_coords
        self.out_channels = out_channels
        layer = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        self.convs_all_levels = nn.ModuleList()
        for level in range(start_level, end_level + 1):
            first = in_channels + 2 * (use_coords and level == end_level)
            channels = [first] + [feat_channels] * max(level, 1)
            convs = nn.Sequential()
            for i, (before, after) in enumerate(zip(channels, channels[1:], strict=False)):
                convs.add_module(f'conv{i}', ConvModule(before, after, 3, padding=1, **layer))
            self.convs_all_levels.append(convs)
        self.conv_pred = ConvModule(feat_channels, out_channels, 1, **layer)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Merge pyramid levels (B, in_channels, h, w): mask features (B, E, H/4, W/4).

        Raises:
            ValueError: if there are fewer levels than ``end_level`` asks for.
        """
        if len(features) <= self.end_level:
            raise ValueError(
                f'MaskFeatureNeck: end_level={self.end_level} needs {self.end_level + 1} pyramid '
                f'levels, but the neck gives {len(features)}: lower end_level or raise num_outs'
            )
        levels = list(features[self.start_level:self.end_level + 1])
        if self.use_coords:
            levels[-1] = append_coordinates(levels[-1])
        sizes = [level.shape[-2:] for level in features[:self.end_level]]
        merged = self._to_first_size(0, levels[0], sizes)
        for i, level in enumerate(levels[1:], start=1):
            merged = merged + self._to_first_size(i, level, sizes)
        return self.conv_pred(merged)

    def _to_first_size(self, index: int, features: Tensor, sizes: list) -> Tensor:
        """Convolve and double level ``index`` in turn, up to the first pyramid level's size."""
        larger = sizes[:self.start_level + index]
        convs = self.convs_all_levels[index]
        if not larger:
            return convs(features)
        for conv, size in zip(convs, reversed(larger), strict=True):
            features = upsample_to(conv(features), size)
        return features
