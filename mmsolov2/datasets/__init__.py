from mmsolov2.datasets.coco_instance import CocoInstanceDataset
from mmsolov2.datasets.transforms import MatchAnnotatedSize

__all__ = ['CocoInstanceDataset', 'MatchAnnotatedSize']
