# The original's schedule; mmdet warms up from a third of the rate, not from 0.01 of it.
_base_ = [
    '../_base_/models/solov2_r50_fpn.py',
    '../_base_/datasets/coco_instance_ms-640-800.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
