"""Any network of timm that gives features of several strides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmsolov2.errors import InputError
from mmsolov2.models.backbones.library_backbone import LibraryBackbone, imported
from mmsolov2.registry import MODELS


@MODELS.register_module()
class TimmBackbone(LibraryBackbone):
    """Maps (B, C, H/stride, W/stride) of images (B, in_channels, H, W), the finest first.

    timm needs torchvision in the build for one's torch, and is not among the tested packages: this
    class was run with timm 1.0.31 and torchvision's Python code without its operators. Names of
    weights are timm's after ``net.``; ``out_channels`` are for ``neck.in_channels``.

    Args:
        model: a name of ``timm.list_models()``.
        overrides: arguments of ``timm.create_model``, as ``dict(drop_path_rate=0.2)``; a Swin of
            one size needs ``dict(strict_img_size=False)`` for others.
        out_indices: which of its features are given, from the end if negative.
        in_channels: bands of the images; timm spreads weights for RGB over them.
        pretrained: what training starts from: a file of timm's, or True for the hub's weights.
        frozen_stages: as many maps, the finest, and all that they need are not trained.
        norm_eval: keep the statistics of all batch normalisation.

    Raises:
        InputError: if timm cannot be imported, or the network cannot be made.
        ValueError: if there are weights of two sources.
    """

    def __init__(
        self,
        *,
        model: str,
        overrides: Mapping | None = None,
        out_indices: Sequence[int] = (-4, -3, -2, -1),
        in_channels: int = 3,
        pretrained: bool | str = False,
        frozen_stages: int = 0,
        norm_eval: bool = False,
        init_cfg: dict | list | None = None,
    ) -> None:
        settings: dict[str, Any] = {
            **(overrides or {}),
            'model_name': model,
            'features_only': True,
            'out_indices': tuple(out_indices),
            'in_chans': in_channels,
        }
        super().__init__(
            create(**settings),
            in_channels=in_channels,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            source=model if pretrained is True else pretrained or None,
            init_cfg=init_cfg,
        )
        self.settings = settings

    @staticmethod
    def maps_of(net: nn.Module, images: Tensor) -> Sequence[Tensor]:
        """The maps (B, C, h, w) that a network makes of images (B, in_channels, H, W)."""
        maps = net(images)
        if 'NHWC' in str(getattr(net, 'output_fmt', '')):
            return [one.permute(0, 3, 1, 2).contiguous() for one in maps]
        return maps

    def read_weights(self, source: str) -> Mapping:
        """The state dict of a file, or of the hub where the source is the model's name.

        Raises:
            InputError: if it cannot be read, or is of another network.
        """
        own = source == self.settings['model_name']
        if not own and not Path(source).is_file():
            raise InputError(f'TimmBackbone: {source}: there is no such file; check pretrained')
        file = {} if own else dict(pretrained_cfg_overlay=dict(file=source))
        return create(**self.settings, **file, pretrained=True).state_dict()


def create(**settings: Any) -> nn.Module:
    """The network of arguments of ``timm.create_model``.

    Raises:
        InputError: if timm cannot be imported, or cannot make it.
    """
    timm = imported('timm', 'timm')
    try:
        return timm.create_model(**settings)
    except Exception as error:
        raise InputError(
            f'TimmBackbone: {settings["model_name"]} cannot be made ({type(error).__name__}: '
            f'{error}): choose a name of timm.list_models() and settings that it has; without '
            'network, let pretrained be a file'
        ) from error
