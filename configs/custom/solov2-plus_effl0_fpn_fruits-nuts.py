_base_ = [
    '../_base_/models/solov2-plus_effl0_fpn_small.py',
    '../_base_/datasets/fruits-nuts_instance.py',
    '../_base_/schedules/schedule_small.py',
    '../_base_/default_runtime.py',
]
model = dict(mask_head=dict(num_classes=3))
default_hooks = dict(logger=dict(interval=10))
