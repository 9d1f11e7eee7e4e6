from mmsolov2.datasets.bands import LoadBandsFromFile
from mmsolov2.datasets.coco_instance import CocoInstanceDataset
from mmsolov2.datasets.transforms import MatchAnnotatedSize, Resize

__all__ = ['CocoInstanceDataset', 'LoadBandsFromFile', 'MatchAnnotatedSize', 'Resize']
