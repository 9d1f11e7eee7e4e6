"""The SOLOv2 detector: backbone, neck, mask neck and mask head."""

from collections.abc import Sequence

from mmdet.models.detectors import BaseDetector
from torch import Tensor, nn

from mmsolov2.engine.checkpoint import require_match, with_mask_neck
from mmsolov2.registry import MODELS


def check_fit(neck: nn.Module, mask_neck: nn.Module, mask_head: nn.Module) -> None:
    """Raise ValueError unless the parts of a SOLOv2 agree on channels and levels."""
    width = getattr(neck, 'out_channels', None)
    for name, part in dict(mask_neck=mask_neck, mask_head=mask_head).items():
        channels = getattr(part, 'in_channels', width)
        if width is not None and channels != width:
            raise ValueError(
                f'SOLOv2: neck.out_channels is {width}, but {name}.in_channels is {channels}: '
                'give both the same value'
            )
    levels = len(mask_head.num_grids)
    num_outs = getattr(neck, 'num_outs', levels)
    if num_outs != levels:
        raise ValueError(
            f'SOLOv2: neck.num_outs is {num_outs}, but mask_head.num_grids has {levels} levels: '
            f'set num_outs={levels}'
        )
    if getattr(mask_neck, 'end_level', 0) >= levels:
        raise ValueError(
            f'SOLOv2: mask_neck.end_level is {mask_neck.end_level}, but the neck gives {levels} '
            f'levels, counted from 0: set end_level={levels - 1} or lower'
        )
    if getattr(mask_neck, 'num_levels', levels) != levels:
        raise ValueError(
            f'SOLOv2: mask_neck.num_levels is {mask_neck.num_levels}, but mask_head.num_grids has '
            f'{levels} levels: give both the same number'
        )


@MODELS.register_module()
class SOLOv2(BaseDetector):
    """SOLOv2 (Wang et al., NeurIPS 2020) on any mmdet backbone and feature pyramid.

    Args:
        backbone: config of the backbone.
        neck: config of the feature pyramid, 5 levels by default.
        mask_neck: config of the mask features.
        mask_head: config of the head. Its ``mask_channels`` are the mask neck's
            ``out_channels``, and its ``test_cfg`` the model's.
        train_cfg: settings of training; there are none.
        test_cfg: settings of prediction, see ``SOLOv2Head``.
        data_preprocessor: config of the data preprocessor.

    Raises:
        ValueError: if the parts disagree on channels or levels.
    """

    def __init__(
        self,
        *,
        backbone: dict,
        neck: dict,
        mask_neck: dict,
        mask_head: dict,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = MODELS.build(neck)
        self.mask_neck = MODELS.build(mask_neck)
        channels = self.mask_neck.out_channels
        if mask_head.get('mask_channels', channels) != channels:
            raise ValueError(
                f'SOLOv2: mask_neck.out_channels is {channels}, but mask_head.mask_channels is '
                f'{mask_head["mask_channels"]}: leave the latter out'
            )
        self.mask_head = MODELS.build({
            **mask_head,
            'mask_channels': channels,
            'train_cfg': train_cfg,
            'test_cfg': test_cfg,
        })
        check_fit(self.neck, self.mask_neck, self.mask_head)

    def extract_feat(self, batch_inputs: Tensor) -> Sequence[Tensor]:
        """Pyramid levels (B, C, h, w) of images (B, 3, H, W)."""
        return self.neck(self.backbone(batch_inputs))

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """``loss_cls`` and ``loss_mask`` of images (B, 3, H, W)."""
        features = self.extract_feat(batch_inputs)
        return self.mask_head.loss(features, self.mask_neck(features), batch_data_samples)

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """The data samples of images (B, 3, H, W), with ``pred_instances`` added.

        Masks and boxes are at the original size, or with ``rescale=False`` at the network's.
        """
        features = self.extract_feat(batch_inputs)
        results = self.mask_head.predict(
            features, self.mask_neck(features), batch_data_samples, rescale=rescale
        )
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> tuple:
        """Category logits, kernels, each one a level, and mask features (B, E, H/4, W/4)."""
        features = self.extract_feat(batch_inputs)
        return (*self.mask_head(features), self.mask_neck(features))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        """Take mmdet's names for the mask features; refuse weights of another model."""
        renamed = with_mask_neck(state_dict, prefix)
        state_dict.clear()
        state_dict.update(renamed)
        require_match(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
