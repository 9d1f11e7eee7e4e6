from mmsolov2.apis.inference import (
    coco_categories,
    find_images,
    load_config,
    load_detector,
    predict,
    read_image,
    to_coco,
)
from mmsolov2.apis.overlay import draw_overlay
from mmsolov2.engine.config import find_config

__all__ = [
    'coco_categories',
    'draw_overlay',
    'find_config',
    'find_images',
    'load_config',
    'load_detector',
    'predict',
    'read_image',
    'to_coco',
]
