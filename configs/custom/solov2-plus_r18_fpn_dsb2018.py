# Small and crowded instances: finer grids than those of the shapes, and more epochs of few images.
_base_ = [
    '../_base_/models/solov2-plus_r18_fpn_small.py',
    '../_base_/datasets/dsb2018_instance.py',
    '../_base_/schedules/schedule_small.py',
    '../_base_/default_runtime.py',
]
model = dict(mask_head=dict(num_classes=1, num_grids=(28, 24, 16, 12, 8)))
max_epochs = 30
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, end=max_epochs, eta_min=1e-5, by_epoch=True),
]
