# For images of about 256x192 and training from scratch on a CPU: half the width of a ResNet-18, a
# narrow head, coarser grids with larger centre regions, and GroupNorm with 8 groups to match.
_base_ = './solov2-light_r50_fpn.py'
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    mask_neck=dict(in_channels=64, feat_channels=32, out_channels=64, norm_cfg=norm_cfg),
    mask_head=dict(
        num_classes=5,
        in_channels=64,
        feat_channels=64,
        num_grids=(16, 14, 12, 8, 6),
        norm_cfg=norm_cfg,
        assigner=dict(
            center_scale=0.4,
            scale_ranges=((1, 32), (16, 64), (32, 128), (64, 256), (128, 512)),
        ),
    ),
)
