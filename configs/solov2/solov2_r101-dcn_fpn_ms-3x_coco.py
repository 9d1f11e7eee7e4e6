# Deformable convolutions, version 2, in the backbone, in both towers and in the mask features.
_base_ = './solov2_r101_fpn_ms-3x_coco.py'
model = dict(
    backbone=dict(
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    mask_neck=dict(conv_cfg=dict(type='DCNv2')),
    mask_head=dict(conv_cfg=dict(type='DCNv2')),
)
