# A person's own COCO-format data: copy this file, and change the folder, the files and the classes.
_base_ = './coco_instance.py'
data_root = 'data/fruits_nuts/'
metainfo = dict(
    classes=('date', 'fig', 'hazelnut'),  # as in the annotation files
    palette=[(150, 75, 30), (120, 60, 160), (210, 160, 60)],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmsolov2.MatchAnnotatedSize'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='RandomChoiceResize',
        scales=[(480, 360), (440, 330), (400, 300), (360, 270), (320, 240)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmsolov2.MatchAnnotatedSize'),
    dict(type='Resize', scale=(400, 300), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='RepeatDataset',  # few images: an epoch shows each of them ten times
        times=10,
        dataset=dict(
            type='mmsolov2.CocoInstanceDataset',
            data_root=data_root,
            metainfo=metainfo,
            ann_file='annotations/train.json',
            data_prefix=dict(img='images/'),
            filter_cfg=dict(filter_empty_gt=False),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='images/'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/val.json', classwise=True)
test_evaluator = val_evaluator
