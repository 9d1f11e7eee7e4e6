from mmsolov2.apis.costs import model_costs, tested_size
from mmsolov2.apis.inference import (
    coco_categories,
    find_images,
    load_config,
    load_detector,
    predict,
    read_image,
    to_coco,
)
from mmsolov2.apis.prediction_files import PredictionFiles
from mmsolov2.apis.reporting import report
from mmsolov2.cli.config import find_config
from mmsolov2.visualization.overlay import draw_overlay

__all__ = [
    'PredictionFiles',
    'coco_categories',
    'draw_overlay',
    'find_config',
    'find_images',
    'load_config',
    'load_detector',
    'model_costs',
    'predict',
    'read_image',
    'report',
    'tested_size',
    'to_coco',
]
