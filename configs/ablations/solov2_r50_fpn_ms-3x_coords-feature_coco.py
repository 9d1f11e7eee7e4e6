_base_ = '../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(mask_neck=dict(use_coords=True), mask_head=dict(use_coords=False))
