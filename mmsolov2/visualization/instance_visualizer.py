"""Pictures of ground truth and predictions while a model is trained or tested."""

import mmcv
import numpy as np
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dist import master_only

from mmsolov2.registry import VISUALIZERS


@VISUALIZERS.register_module()
class InstanceVisualizer(DetLocalVisualizer):
    """mmdet's visualizer, which paints a sample on the image as MatchAnnotatedSize loads it."""

    @master_only
    def add_datasample(
        self,
        name: str,
        image: np.ndarray,
        data_sample: DetDataSample | None = None,
        *args: object,
        **kwargs: object,
    ) -> None:
        """Paint a sample on its image (H, W, 3) RGB, which is upright, as its EXIF tag says."""
        shape = image.shape[:2]
        if data_sample is not None and data_sample.get('ori_shape', shape) != shape:
            image = mmcv.imread(
                data_sample.img_path, flag='color_ignore_orientation', channel_order='rgb'
            )
        super().add_datasample(name, image, data_sample, *args, **kwargs)
