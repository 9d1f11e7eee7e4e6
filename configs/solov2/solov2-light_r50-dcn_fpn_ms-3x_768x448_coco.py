# mmdet's variant of the light deformable model: version 2, trained and tested in the 768x448 of the
# models without deformable convolution.
_base_ = './solov2-light_r50_fpn_ms-3x_coco.py'
model = dict(
    backbone=dict(
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    mask_head=dict(
        stacked_convs=3,
        last_conv_cfg=dict(type='DCNv2'),
        assigner=dict(scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))),
    ),
)
