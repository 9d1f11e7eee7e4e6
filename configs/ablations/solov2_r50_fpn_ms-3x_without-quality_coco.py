_base_ = '../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(
    mask_head=dict(
        position_terms='quadratic',
        loss_cls=dict(
            _delete_=True,
            type='FocalLoss',
            use_sigmoid=True,
            gamma=2.0,
            alpha=0.25,
            loss_weight=1.0,
        ),
    ),
    test_cfg=dict(min_part=0.2, min_mask_pixels=1),
)
