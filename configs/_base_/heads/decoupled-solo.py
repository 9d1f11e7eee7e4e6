# mmdet's decoupled SOLO (Wang et al., ECCV 2020, section 4), on the backbone, neck, grids and data
# of the base.
_base_ = '../../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(
    _delete_=True,
    type='SOLO',
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone={{_base_.model.backbone}},
    neck={{_base_.model.neck}},
    mask_head=dict(
        type='DecoupledSOLOHead',
        num_classes={{_base_.model.mask_head.num_classes}},
        in_channels={{_base_.model.neck.out_channels}},
        feat_channels={{_base_.model.neck.out_channels}},
        stacked_convs=7,
        strides={{_base_.model.mask_head.strides}},
        scale_ranges={{_base_.model.mask_head.assigner.scale_ranges}},
        pos_scale={{_base_.model.mask_head.assigner.center_scale}},
        num_grids={{_base_.model.mask_head.num_grids}},
        cls_down_index=0,
        loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=False, loss_weight=3.0),
        loss_cls={{_base_.model.mask_head.loss_cls}},
        norm_cfg={{_base_.model.mask_head.norm_cfg}},
    ),
    test_cfg=dict(
        nms_pre=500,
        score_thr=0.1,
        mask_thr=0.5,
        filter_thr=0.05,
        kernel='gaussian',
        sigma=2.0,
        max_per_img=100,
    ),
)
