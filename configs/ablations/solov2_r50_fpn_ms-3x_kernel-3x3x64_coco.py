_base_ = '../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(mask_neck=dict(out_channels=64), mask_head=dict(kernel_size=3))
