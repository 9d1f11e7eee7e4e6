# For images of about 320x256, trained from scratch.
_base_ = './solov2-light_r50_fpn.py'
model = dict(
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=128),
    mask_neck=dict(in_channels=128, feat_channels=64, out_channels=64),
    mask_head=dict(
        num_classes=5,
        in_channels=128,
        feat_channels=128,
        num_grids=(20, 18, 12, 8, 6),
        assigner=dict(scale_ranges=((1, 32), (16, 64), (32, 128), (64, 256), (128, 512))),
    ),
)
