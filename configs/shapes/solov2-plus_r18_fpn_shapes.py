_base_ = [
    '../_base_/models/solov2-plus_r18_fpn_small.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/schedule_small.py',
    '../_base_/default_runtime.py',
]
default_hooks = dict(logger=dict(interval=10))
