# mmdet's Mask R-CNN (He et al., ICCV 2017) on the backbone, neck and data of the base. It needs
# mmcv's compiled operators: RoIAlign and NMS.
_base_ = '../../solov2/solov2_r50_fpn_ms-3x_coco.py'
roi_layer = dict(type='RoIAlign', sampling_ratio=0)
cross_entropy = dict(type='CrossEntropyLoss', loss_weight=1.0)
smooth = dict(type='L1Loss', loss_weight=1.0)
coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4)
assigner = dict(type='MaxIoUAssigner', ignore_iof_thr=-1)
sampler = dict(type='RandomSampler')
rois = dict(
    type='SingleRoIExtractor',
    out_channels={{_base_.model.neck.out_channels}},
    featmap_strides=[4, 8, 16, 32],
)
proposals = dict(max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
model = dict(
    _delete_=True,
    type='MaskRCNN',
    data_preprocessor={{_base_.model.data_preprocessor}},
    backbone={{_base_.model.backbone}},
    neck={{_base_.model.neck}},
    rpn_head=dict(
        type='RPNHead',
        in_channels={{_base_.model.neck.out_channels}},
        feat_channels={{_base_.model.neck.out_channels}},
        anchor_generator=dict(
            type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(**coder, target_stds=[1.0] * 4),
        loss_cls=dict(**cross_entropy, use_sigmoid=True),
        loss_bbox=smooth,
    ),
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(**rois, roi_layer=dict(**roi_layer, output_size=7)),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            num_classes={{_base_.model.mask_head.num_classes}},
            in_channels={{_base_.model.neck.out_channels}},
            fc_out_channels=1024,
            roi_feat_size=7,
            reg_class_agnostic=False,
            bbox_coder=dict(**coder, target_stds=[0.1, 0.1, 0.2, 0.2]),
            loss_cls=dict(**cross_entropy, use_sigmoid=False),
            loss_bbox=smooth,
        ),
        mask_roi_extractor=dict(**rois, roi_layer=dict(**roi_layer, output_size=14)),
        mask_head=dict(
            type='FCNMaskHead',
            num_classes={{_base_.model.mask_head.num_classes}},
            in_channels={{_base_.model.neck.out_channels}},
            conv_out_channels={{_base_.model.neck.out_channels}},
            num_convs=4,
            loss_mask=dict(**cross_entropy, use_mask=True),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                **assigner,
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
            ),
            sampler=dict(
                **sampler, num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False
            ),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(**proposals, nms_pre=2000),
        rcnn=dict(
            assigner=dict(
                **assigner,
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=True,
            ),
            sampler=dict(
                **sampler, num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
            ),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(**proposals, nms_pre=1000),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=100,
            mask_thr_binary=0.5,
        ),
    ),
)
del roi_layer, cross_entropy, smooth, coder, assigner, sampler, rois, proposals
