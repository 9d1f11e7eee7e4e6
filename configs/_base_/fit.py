# What every config that tools/fit.py writes inherits: a person's COCO files, many repeats of few
# pictures, random sizes, the best checkpoint kept.
_base_ = [
    './datasets/coco_instance.py',
    './schedules/schedule_small.py',
    './default_runtime.py',
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmsolov2.MatchAnnotatedSize'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', scale=(640, 480), ratio_range=(0.9, 1.1), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',
        dataset=dict(type='mmsolov2.CocoInstanceDataset', filter_cfg=dict(filter_empty_gt=False)),
    ),
)
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(max_keep_ckpts=1, save_best='coco/segm_mAP', rule='greater'),
)
custom_hooks = [
    dict(
        type='EarlyStoppingHook',  # of ten validations
        monitor='coco/segm_mAP',
        rule='greater',
        min_delta=0.001,
        patience=5,
    ),
]
