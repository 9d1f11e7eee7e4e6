# The real-time model of 512 pixels (SOLOv2, section 4.3): deformable backbone, a third convolution
# in each tower, deformable too, and scale ranges for a short side of 512. Version 1 of the
# deformable convolution and none in the mask features, as the original trained it.
_base_ = './solov2-light_r50_fpn.py'
model = dict(
    backbone=dict(
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    mask_head=dict(
        stacked_convs=3,
        last_conv_cfg=dict(type='DCN'),
        assigner=dict(scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))),
    ),
)
