_base_ = '../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(test_cfg=dict(nms=dict(_delete_=True, type='mmsolov2.FastMaskNMS', iou_thr=0.5)))
