# As the paper and the original have it: 852x512, version 1, and the original's schedule. mmdet's
# differs: solov2-light_r50-dcn_fpn_ms-3x_768x448_coco.py.
_base_ = [
    '../_base_/models/solov2-light_r50-dcn_fpn.py',
    '../_base_/datasets/coco_instance_ms-352-512_852.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
