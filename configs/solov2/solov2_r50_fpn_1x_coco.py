# The original's schedule; mmdet divides the rate after 8 and 11, not 9 and 11, and warms up from
# 0.001 of it, not 0.01.
_base_ = [
    '../_base_/models/solov2_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/schedule_1x.py',
    '../_base_/default_runtime.py',
]
