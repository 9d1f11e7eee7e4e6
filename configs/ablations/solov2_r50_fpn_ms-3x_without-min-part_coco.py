_base_ = '../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(
    mask_head=dict(
        position_terms='quadratic',
        loss_cls=dict(_delete_=True, type='VarifocalLoss', use_sigmoid=True),
    ),
    test_cfg=dict(min_part=None, min_mask_pixels=1),
)
