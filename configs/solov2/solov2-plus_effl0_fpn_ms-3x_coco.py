_base_ = [
    '../_base_/models/solov2-plus_effl0_fpn.py',
    '../_base_/datasets/coco_instance_ms-352-512.py',
    '../_base_/schedules/schedule_3x.py',
    '../_base_/default_runtime.py',
]
