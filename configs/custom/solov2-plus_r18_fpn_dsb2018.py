# Small and crowded instances: finer grids than those of the shapes, and more epochs of few images.
_base_ = [
    '../_base_/models/solov2-plus_r18_fpn_small.py',
    '../_base_/datasets/dsb2018_instance.py',
    '../_base_/schedules/schedule_small_30e.py',
    '../_base_/default_runtime.py',
]
model = dict(mask_head=dict(num_classes=1, num_grids=(40, 32, 24, 16, 12)))
