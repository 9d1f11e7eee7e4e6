# pip install 'mmsolov2[backbones]'
_base_ = './solov2-plus_r50_fpn_ms-3x_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmsolov2.HFBackbone',
        model='swin',
        pretrained='microsoft/swin-tiny-patch4-window7-224',
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.0001, weight_decay=0.05))
