"""Any backbone of Hugging Face's transformers: ConvNeXt, Swin, PVT and their successors."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from mmsolov2.errors import InputError
from mmsolov2.models.backbones.library_backbone import LibraryBackbone, imported
from mmsolov2.models.state_dicts import some_of
from mmsolov2.registry import MODELS


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Make an InputError of whatever is raised when a folder or an entry of the hub is read."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition('\n')[0]
        raise InputError(
            f'HFBackbone: {name}: this is no model type of transformers, and cannot be read from a '
            f'folder or the hub ({type(error).__name__}: {reason}). Without network, give a folder '
            'with config.json and model.safetensors, as save_pretrained writes it; a model type, '
            'as convnextv2, swin or pvt_v2, needs no file'
        ) from error


def read_config(model: str, settings: Mapping, out_indices: Sequence[int]) -> Any:
    """The configuration of a model type, a folder or the hub, with settings changed.

    Raises:
        InputError: if it cannot be read.
        ValueError: if it lacks a setting or a stage.
    """
    transformers = imported('transformers', 'backbones')
    if model in transformers.CONFIG_MAPPING:
        config = transformers.AutoConfig.for_model(model, **settings)
    else:
        with reading(model):
            config = transformers.AutoConfig.from_pretrained(model, **settings)
    default, stages = type(config)(), getattr(config, 'stage_names', [])
    unknown = [name for name in settings if not hasattr(default, name)]
    if unknown:
        names = sorted(vars(default).keys() - vars(transformers.PretrainedConfig()).keys())
        raise ValueError(f'HFBackbone: {model} has no settings {unknown}, but {names}')
    if not set(out_indices) <= set(range(-len(stages), len(stages))):
        raise ValueError(
            f'HFBackbone: out_indices must be of the stages of {model}, '
            f'{stages or "which has none"}, not {list(out_indices)}'
        )
    for name, value in vars(config).items():
        if isinstance(value, tuple):  # some networks join their defaults to lists
            setattr(config, name, list(value))
    config.out_indices = sorted(range(len(stages))[index] for index in out_indices)
    return config


@MODELS.register_module()
class HFBackbone(LibraryBackbone):
    """Maps (B, C, H/stride, W/stride) of images (B, in_channels, H, W), the finest first.

    SOLOv2 needs maps at strides 4, 8, 16 and 32, as those of convnext, convnextv2, swin, pvt_v2 and
    dinov3_convnext; it refuses plain vision transformers, whose maps all have one stride. Names of
    weights are transformers' after ``net.``; ``out_channels`` are for ``neck.in_channels``.

    Args:
        model: a model type of transformers, a folder with config.json, or a name of the hub.
        overrides: settings of its configuration, as ``dict(drop_path_rate=0.2)``.
        out_indices: which of its stages give maps, the stem being the first, or from the end.
        in_channels: bands of the images.
        pretrained: a folder or a name of the hub that training starts from; True for ``model``. Of
            weights for RGB other bands take those of the channels in turn.
        frozen_stages: as many maps, the finest, and all that they need are not trained.
        norm_eval: keep the statistics of all batch normalisation.

    Raises:
        InputError: if transformers is not installed, or ``model`` cannot be read.
        ValueError: if ``model`` is no backbone, or lacks a setting or a stage; if weights are of
            two sources, or of none with True.
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
        bands = {} if in_channels == 3 else dict(num_channels=in_channels)
        config = read_config(model, {**(overrides or {}), **bands}, out_indices)
        transformers = imported('transformers', 'backbones')
        if pretrained is True and model in transformers.CONFIG_MAPPING:
            raise ValueError(
                f'HFBackbone: model={model!r} is a model type, which has no weights: let '
                'pretrained name a folder or an entry of the hub'
            )
        super().__init__(
            transformers.AutoBackbone.from_config(config).float(),
            in_channels=in_channels,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            source=model if pretrained is True else pretrained or None,
            init_cfg=init_cfg,
        )

    @staticmethod
    def maps_of(net: nn.Module, images: Tensor) -> Sequence[Tensor]:
        """The maps (B, C, h, w) that a network makes of images (B, in_channels, H, W)."""
        return net(images).feature_maps

    def read_weights(self, source: str) -> Mapping:
        """The state dict of a folder or an entry of the hub; what it lacks has initial values.

        Raises:
            InputError: if it cannot be read, is of another type, or has less than half of what the
                network needs.
        """
        own: Any = self.net  # a PreTrainedModel
        config = read_config(source, {}, own.config.out_indices)
        kinds = own.config.model_type, config.model_type
        if kinds[0] != kinds[1]:
            raise InputError(f'HFBackbone: {source} is of the type {kinds[1]}, not {kinds[0]}')
        with reading(source):
            net, found = type(own).from_pretrained(
                source,
                config=config,
                use_safetensors=True,  # which holds numbers alone
                output_loading_info=True,
            )
        missing = sorted(found['missing_keys'])
        if len(missing) > len(net.state_dict()) / 2:
            raise InputError(
                f'HFBackbone: {source} lacks {len(missing)} of the {len(net.state_dict())} entries '
                f'of {type(net).__name__}: {some_of(missing)}: give weights of this kind of model'
            )
        if missing:
            message = f'HFBackbone: {source} lacks {some_of(missing)}, which start anew'
            print_log(message, 'current', logging.WARNING)
        return net.state_dict()
