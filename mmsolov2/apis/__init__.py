from mmsolov2.apis.costs import model_costs, tested_size
from mmsolov2.apis.fit import Fitted, fit
from mmsolov2.apis.inference import (
    coco_categories,
    find_images,
    load_config,
    load_detector,
    predict,
    predict_batch,
    read_image,
    to_coco,
)
from mmsolov2.apis.inferencer import SOLOv2Inferencer
from mmsolov2.apis.reporting import report
from mmsolov2.apis.supervision import to_supervision
from mmsolov2.cli.config import find_config
from mmsolov2.visualization.overlay import draw_overlay

__all__ = [
    'Fitted',
    'SOLOv2Inferencer',
    'coco_categories',
    'draw_overlay',
    'find_config',
    'find_images',
    'fit',
    'load_config',
    'load_detector',
    'model_costs',
    'predict',
    'predict_batch',
    'read_image',
    'report',
    'tested_size',
    'to_coco',
    'to_supervision',
]
