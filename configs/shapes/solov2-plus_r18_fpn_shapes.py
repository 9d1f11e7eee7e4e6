_base_ = [
    '../_base_/models/solov2-plus_r18_fpn_small.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/schedule_small.py',
    '../_base_/default_runtime.py',
]
default_hooks = dict(logger=dict(interval=10))
max_epochs = 20
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, end=max_epochs, eta_min=1e-5, by_epoch=True),
]
