# The real-time model: two convolutions of 256 channels in the head, 128 mask features, and scale
# ranges for a short side of 448 (SOLOv2, section 4.3).
_base_ = './solov2_r50_fpn.py'
model = dict(
    mask_neck=dict(out_channels=128),
    mask_head=dict(
        feat_channels=256,
        stacked_convs=2,
        assigner=dict(scale_ranges=((1, 56), (28, 112), (56, 224), (112, 448), (224, 896))),
    ),
)
