_base_ = '../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(
    mask_neck=dict(
        _delete_=True,
        type='mmsolov2.SeparateMaskFeatureNeck',
        in_channels={{_base_.model.mask_neck.in_channels}},
        feat_channels={{_base_.model.mask_neck.feat_channels}},
        out_channels={{_base_.model.mask_neck.out_channels}},
        norm_cfg={{_base_.model.mask_neck.norm_cfg}},
    )
)
