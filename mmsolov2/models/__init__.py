from mmsolov2.models.backbones.efficientnet_lite import EfficientNetLite
from mmsolov2.models.backbones.hf_backbone import HFBackbone
from mmsolov2.models.backbones.timm_backbone import TimmBackbone
from mmsolov2.models.bands import BandsDataPreprocessor
from mmsolov2.models.decode.mask_nms import FastMaskNMS, HardMaskNMS, MatrixNMS, SoftMaskNMS
from mmsolov2.models.mask_feature_neck import MaskFeatureNeck, SeparateMaskFeatureNeck
from mmsolov2.models.solov2 import SOLOv2
from mmsolov2.models.solov2_head import SOLOv2Head
from mmsolov2.models.targets.grid_assigner import GridAssigner

__all__ = [
    'BandsDataPreprocessor',
    'EfficientNetLite',
    'FastMaskNMS',
    'GridAssigner',
    'HFBackbone',
    'HardMaskNMS',
    'MaskFeatureNeck',
    'MatrixNMS',
    'SOLOv2',
    'SOLOv2Head',
    'SeparateMaskFeatureNeck',
    'SoftMaskNMS',
    'TimmBackbone',
]
