"""Mask features F: what every instance's kernel is convolved with."""

import itertools
from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsolov2.models.coordinates import append_coordinates
from mmsolov2.models.pyramid import resize, to_head_strides
from mmsolov2.registry import MODELS

NORMAL_INIT = dict(type='Normal', layer='Conv2d', std=0.01)
GROUP_NORM = dict(type='GN', num_groups=32)


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
        self.in_channels = in_channels
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
            for i, (before, after) in enumerate(itertools.pairwise(channels)):
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
        levels = list(features[self.start_level : self.end_level + 1])
        if self.use_coords:
            levels[-1] = append_coordinates(levels[-1])
        sizes = [level.shape[-2:] for level in features[: self.end_level]]
        merged = self._to_first_size(0, levels[0], sizes)
        for i, level in enumerate(levels[1:], start=1):
            merged = merged + self._to_first_size(i, level, sizes)
        return self.conv_pred(merged)

    def _to_first_size(self, index: int, features: Tensor, sizes: list) -> Tensor:
        """Convolve and double level ``index`` in turn, up to the first pyramid level's size."""
        larger = sizes[: self.start_level + index]
        convs = self.convs_all_levels[index]
        if not larger:
            return convs(features)
        for conv, size in zip(convs.children(), reversed(larger), strict=True):
            features = resize(conv(features), size)
        return features


@MODELS.register_module()
class SeparateMaskFeatureNeck(BaseModule):
    """Mask features (B, out_channels, h, w) for each pyramid level (B, in_channels, h', w').

    The branch of SOLO (Wang et al., ECCV 2020, figure 3): seven 3x3 convolutions with weights
    that the levels share, coordinates in the first, and the doubled size at the end: strides
    4, 4, 8, 16 and 16. A kernel is convolved with the features of its own level; SOLOv2's table
    3d compares this with the unified features.

    Args:
        in_channels: channels of every pyramid level.
        feat_channels: channels inside.
        out_channels: channels E of the mask features.
        stacked_convs: 3x3 convolutions.
        num_levels: pyramid levels, as many as the head has.
        use_coords: append x and y to every level.

    Raises:
        ValueError: if there is not at least one convolution and three levels.
    """

    def __init__(
        self,
        *,
        in_channels: int = 256,
        feat_channels: int = 128,
        out_channels: int = 256,
        stacked_convs: int = 7,
        num_levels: int = 5,
        use_coords: bool = True,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = GROUP_NORM,
        init_cfg: dict | list | None = NORMAL_INIT,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if stacked_convs < 1 or num_levels < 3:
            raise ValueError(
                'SeparateMaskFeatureNeck: needs stacked_convs >= 1 and num_levels >= 3, not '
                f'{stacked_convs} and {num_levels}'
            )
        self.in_channels = in_channels
        self.num_levels = num_levels
        self.use_coords = use_coords
        self.out_channels = out_channels
        layer = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        channels = [in_channels + 2 * use_coords] + [feat_channels] * stacked_convs
        self.convs = nn.Sequential(
            *(
                ConvModule(before, after, 3, padding=1, **layer)
                for before, after in itertools.pairwise(channels)
            )
        )
        self.conv_pred = ConvModule(feat_channels, out_channels, 1, **layer)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Convolve pyramid levels (B, in_channels, h, w): mask features of each, at stride 4 up.

        Raises:
            ValueError: if the number of levels is not ``num_levels``.
        """
        if len(features) != self.num_levels:
            raise ValueError(
                f'SeparateMaskFeatureNeck: the neck gives {len(features)} levels: set '
                f'num_levels={len(features)}, or neck.num_outs={self.num_levels}'
            )
        sizes = [level.shape[-2:] for level in features]
        doubled = [sizes[0], *sizes[:-2], sizes[-3]]  # of strides 8, 8, 16, 32, 32
        levels = zip(to_head_strides(features), doubled, strict=True)
        return [self._forward_level(level, size) for level, size in levels]

    def _forward_level(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """Mask features (B, E, *size) of a level (B, in_channels, h, w)."""
        if self.use_coords:
            features = append_coordinates(features)
        return self.conv_pred(resize(self.convs(features), size))
