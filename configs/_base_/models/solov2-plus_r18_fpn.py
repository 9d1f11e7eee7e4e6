# The real-time model on a ResNet-18, with what docs/accuracy.md shows to pay.
_base_ = './solov2-light_r50_fpn.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='torchvision://resnet18')),
    neck=dict(in_channels=[64, 128, 256, 512]),
    mask_head=dict(
        position_terms='quadratic',
        loss_cls=dict(_delete_=True, type='VarifocalLoss', use_sigmoid=True),
    ),
    test_cfg=dict(min_part=0.2, min_mask_pixels=1),
)
