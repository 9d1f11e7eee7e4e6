"""Samples for the package supervision: its trackers, zones and annotators."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from mmdet.structures import DetDataSample

from mmsolov2.errors import InputError
from mmsolov2.structures.masks import with_bitmaps

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(sample: DetDataSample, classes: Sequence[str] = ()) -> 'Detections':
    """Supervision's Detections of a sample's n instances, also where their masks are RLE.

    ``xyxy`` (n, 4) float32, ``mask`` (n, H, W) bool, ``confidence`` (n,) float32 and ``class_id``
    (n,) int64; with the names of ``classes`` also ``data['class_name']`` (n,).

    Raises:
        InputError: if supervision is not installed.
    """
    try:
        from supervision import Detections
    except ImportError as error:
        raise InputError(
            f'supervision cannot be imported ({error}): pip install supervision, or this package '
            'with its extra of that name'
        ) from error
    found = with_bitmaps(sample.pred_instances, sample.ori_shape).cpu()
    labels = found.labels.numpy()
    names = np.array([classes[label] for label in labels], dtype=str) if len(classes) else None
    return Detections(
        xyxy=found.bboxes.numpy(),
        mask=found.masks.numpy(),
        confidence=found.scores.numpy(),
        class_id=labels,
        data={} if names is None else dict(class_name=names),
    )
