from mmsolov2.evaluation.coco_instance_metric import CocoInstanceMetric
from mmsolov2.evaluation.dump import DumpInstances

__all__ = ['CocoInstanceMetric', 'DumpInstances']
