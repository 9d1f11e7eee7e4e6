# The small model with what docs/accuracy.md shows to pay; its grids are finer, with smaller centre
# regions, as position terms tell neighbours apart.
_base_ = './solov2-light_r18_fpn_small.py'
model = dict(
    mask_head=dict(
        num_grids=(24, 21, 18, 12, 9),
        position_terms='quadratic',
        assigner=dict(center_scale=0.3),
        loss_cls=dict(_delete_=True, type='VarifocalLoss', use_sigmoid=True),
    ),
    test_cfg=dict(min_part=0.2, min_mask_pixels=1),
)
