"""The settings of prediction, ``test_cfg``."""

import inspect

from mmengine.config import ConfigDict
from torch import nn

from mmsolov2.models.decode.mask_nms import NMS
from mmsolov2.registry import TASK_UTILS

TEST_DEFAULTS = dict(
    score_thr=0.1,
    mask_thr=0.5,
    nms_pre=500,
    filter_thr=0.05,
    max_per_img=100,
    nms=dict(type='mmsolov2.MatrixNMS', kernel='gaussian', sigma=2.0),
    mask_format='bitmap',
    min_mask_pixels=None,
    min_part=None,
)
MASK_FORMATS = ('bitmap', 'rle')


SHARE = lambda v: isinstance(v, int | float) and 0 <= v <= 1, 'a number from 0 to 1'
SHARE_OR_NONE = lambda v: v is None or SHARE[0](v), 'a number from 0 to 1, or None'
LIMIT = (
    lambda v: v is None or (isinstance(v, int) and v >= 1),
    'a whole number of at least 1, or None',
)
CHECKS = {
    'mask_format': (MASK_FORMATS.__contains__, f'one of {MASK_FORMATS}'),
    **dict.fromkeys(('score_thr', 'mask_thr', 'filter_thr'), SHARE),
    'min_part': SHARE_OR_NONE,
    **dict.fromkeys(('nms_pre', 'max_per_img', 'min_mask_pixels'), LIMIT),
}


def checked_test_cfg(test_cfg: dict | None) -> ConfigDict:
    """The test settings over their defaults, those of the published models.

    Raises:
        ValueError: if a setting does not exist, the mask format is unknown, a threshold is not
            from 0 to 1 or a limit is no whole number of at least 1.
    """
    settings = {**TEST_DEFAULTS, **(test_cfg or {})}
    unknown = sorted(settings.keys() - TEST_DEFAULTS.keys())
    if unknown:
        raise ValueError(
            f'SOLOv2: test_cfg has unknown settings {unknown}; there are '
            f'{sorted(TEST_DEFAULTS)} (kernel and sigma belong into nms=dict(...))'
        )

    for name, (valid, kind) in CHECKS.items():
        if not valid(settings[name]):
            raise ValueError(f'SOLOv2: test_cfg.{name} must be {kind}, not {settings[name]!r}')
    return ConfigDict(settings)


def build_nms(cfg: dict) -> NMS:
    """The mask NMS of a config.

    Raises:
        ValueError: if it names none that is registered, or has settings that it does not know.
    """
    name = cfg.get('type') if isinstance(cfg, dict) else None
    if name is None or (isinstance(name, str) and TASK_UTILS.get(name) is None):
        ours = sorted(f'mmsolov2.{known}' for known in TASK_UTILS.module_dict if 'NMS' in known)
        raise ValueError(f'SOLOv2: test_cfg.nms has no type {name!r}; there are {ours}')
    try:
        nms = TASK_UTILS.build(cfg)
        called = nms.forward if isinstance(nms, nn.Module) else nms
        inspect.signature(called).bind('scores', 'labels', 'masks')
    except TypeError as error:
        raise ValueError(
            f'SOLOv2: test_cfg.nms={dict(cfg)}: {error}; it must be called as nms(scores, labels, '
            'masks), and where a config changes the type of the one that it inherits, it needs '
            'nms=dict(_delete_=True, type=...)'
        ) from error
    return nms
