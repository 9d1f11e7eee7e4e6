# SOLOv2 with what docs/accuracy.md shows to pay.
_base_ = './solov2_r50_fpn.py'
model = dict(
    mask_head=dict(
        position_terms='quadratic',
        loss_cls=dict(_delete_=True, type='VarifocalLoss', use_sigmoid=True),
    ),
    test_cfg=dict(min_part=0.2, min_mask_pixels=1),
)
