"""What today's torch, mmengine and mmcv-lite need. Each patch says why, and when it can go.

``apply()`` runs on ``import mmsolov2``, before mmdet is imported.
"""

import importlib.machinery
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from mmsolov2.compat.checkpoint_types import STAND_INS
from mmsolov2.errors import MissingOpError

MMCV_NEEDED = (
    'mmsolov2 needs mmcv or mmcv-lite, >=2.0.0rc4 and <2.2: '
    "pip install 'mmcv-lite>=2.0.0rc4,<2.2' (no compiler needed), or mmcv in the same range"
)


def apply() -> None:
    """Make the stack work: idempotent, and each part stands aside when it is not needed."""
    if importlib.util.find_spec('mmcv') is None:
        raise ImportError(MMCV_NEEDED)
    # mmengine imports it for every config named after a package; setup.cfg pins setuptools for it
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated')
    allow_checkpoint_types()
    name_config_package()
    find_editable_package()
    keep_thin_images()
    if not has_compiled_ops():
        stand_in_for_ops()
        deform_conv_without_ops()  # before mmdet is imported: mmdet copies the names
        focal_loss_without_ops()
    take_rle()


def has_compiled_ops() -> bool:
    """Whether mmcv's compiled operators are installed."""
    module = sys.modules.get('mmcv._ext')
    if module is not None:
        return not isinstance(module, MissingOps)
    return importlib.util.find_spec('mmcv._ext') is not None


class MissingOps(types.ModuleType):
    """Stands in for ``mmcv._ext``: has every operator, and each raises when it is called."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing_op(*args: object, **kwargs: object) -> NoReturn:
            raise MissingOpError(
                f"mmcv's compiled operator {name!r} is needed, but mmcv-lite has none: "
                'install mmcv>=2.0.0rc4,<2.2 in place of mmcv-lite, or choose layers without it'
            )

        return missing_op


def stand_in_for_ops() -> None:
    """Let mmdet be imported on mmcv-lite.

    Why: mmdet imports names from mmcv.ops at module level, and mmcv.ops loads ``mmcv._ext``, which
    mmcv-lite does not have; SOLOv2 calls none of these operators. Can go when mmdet imports
    operators where it uses them.
    """
    module = MissingOps('mmcv._ext')
    module.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', loader=None)
    sys.modules.setdefault('mmcv._ext', module)


def deform_conv_without_ops() -> None:
    """Let mmcv's deformable layers, 'DCN' and 'DCNv2', run on mmcv-lite.

    Why: they call compiled operators; ours give the same values, for more memory. The layers
    stay mmcv's own, so that names of weights, initial values and checkpoints are the same. Can go
    when mmcv falls back by itself.
    """
    from mmcv import ops

    from mmsolov2.ops.deform_conv import deform_conv2d, modulated_deform_conv2d

    for module in (ops, ops.deform_conv, ops.saconv):
        module.deform_conv2d = deform_conv2d
    for module in (ops, ops.modulated_deform_conv):
        module.modulated_deform_conv2d = modulated_deform_conv2d


def focal_loss_without_ops() -> None:
    """Let mmdet's FocalLoss train on CUDA with mmcv-lite.

    Why: on CUDA it calls the compiled operator; its Python version gives the same values. Can go
    when mmdet falls back by itself.
    """
    from mmdet.models.losses import focal_loss

    def sigmoid_focal_loss(pred: Tensor, target: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Focal loss of logits (n, C) with labels (n,); label C is the background."""
        one_hot = torch.nn.functional.one_hot(target, num_classes=pred.size(1) + 1)
        return focal_loss.py_sigmoid_focal_loss(pred, one_hot[:, :-1], *args, **kwargs)

    focal_loss.sigmoid_focal_loss = sigmoid_focal_loss


def keep_thin_images() -> None:
    """Let every ``Resize`` keep a side of very long images at a pixel, not none, and flip them.

    Why: mmcv rounds the sides of the new size, and OpenCV refuses a side of 0; other sizes stay
    the same. Flipped along a side of one pixel, NumPy calls an array contiguous whose stride is
    negative, which torch refuses. Can go when mmcv keeps a pixel, and mmdet packs such arrays.
    """
    import mmcv
    from mmcv.image import geometric
    from mmcv.transforms import processing

    original, flip = geometric._scale_size, mmcv.imflip

    def scale_size(size: tuple[int, int], scale: float | tuple[float, float]) -> tuple[int, int]:
        """The scaled (width, height), at least one pixel each."""
        width, height = original(size, scale)
        return max(width, 1), max(height, 1)

    def imflip(image: np.ndarray, direction: str = 'horizontal') -> np.ndarray:
        """The flipped image; of a line, a copy."""
        flipped = flip(image, direction)
        return flipped.copy() if 1 in image.shape[:2] else flipped

    geometric._scale_size = processing._scale_size = scale_size
    mmcv.imflip = imflip


def take_rle() -> None:
    """Let mmdet's visualizer and DetInferencer take predicted masks as RLE.

    Why: both call methods of bitmaps on them, so that ``test_cfg.mask_format='rle'`` ends in an
    AttributeError. Can go when mmdet takes RLE there, as its CocoMetric does.
    """
    from mmdet.apis import DetInferencer, det_inferencer
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.structures import InstanceData

    from mmsolov2.structures.masks import with_bitmaps

    draw, to_dict = DetLocalVisualizer._draw_instances, DetInferencer.pred2dict
    encode = det_inferencer.encode_mask_results

    def draw_instances(
        self: DetLocalVisualizer, image: np.ndarray, instances: InstanceData, *args: object
    ) -> np.ndarray:
        """Draw what is left of the instances, masks as bitmaps."""
        return draw(self, image, with_bitmaps(instances, image.shape[:2]), *args)

    def pred2dict(
        self: DetInferencer, sample: DetDataSample, *args: object, **kwargs: object
    ) -> dict:
        """The sample for JSON; only where mmdet makes boxes of the masks they become bitmaps."""
        found = sample.get('pred_instances', {})
        if isinstance(found.get('masks'), list) and not found.bboxes.any():
            sample = sample.new()
            sample.pred_instances = with_bitmaps(found, sample.ori_shape)
        return to_dict(self, sample, *args, **kwargs)

    def encode_mask_results(masks: Tensor | list[dict]) -> list[dict]:
        """RLE dicts of bitmaps, or copies of those that are given, as mmdet changes them."""
        return [dict(mask) for mask in masks] if isinstance(masks, list) else encode(masks)

    DetLocalVisualizer._draw_instances = draw_instances
    DetInferencer.pred2dict = pred2dict
    det_inferencer.encode_mask_results = encode_mask_results


def allow_checkpoint_types() -> None:
    """Let torch's safe loader read the checkpoints that mmengine writes.

    Why: since torch 2.6 torch.load refuses all but listed types, and mmengine 0.10 stores its
    loss history as HistoryBuffer and NumPy arrays. Listed are stand-ins that check what a file
    makes of them, see ``checkpoint_types``; ``weights_only`` stays true: a checkpoint never runs
    code. Can go when mmengine lists types of its own that are as strict.
    """
    torch.serialization.add_safe_globals(STAND_INS)


def name_config_package() -> None:
    """Let mmengine resolve ``mmsolov2::…`` in configs.

    Why: it only knows packages of a table of its own. Can go when mmengine asks the installed
    distributions.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.setdefault('mmsolov2', 'mmsolov2')


def find_editable_package() -> None:
    """Let mmengine find our configs after ``pip install --editable`` too.

    Why: it looks beside the distribution's metadata, where an editable install has no package. Can
    go when mmengine asks importlib.
    """
    from mmengine.config import config
    from mmengine.hub import hub

    original = config.get_installed_path
    here = os.path.dirname(os.path.dirname(__file__))
    for module in (config, hub):
        module.get_installed_path = lambda name: here if name == 'mmsolov2' else original(name)
