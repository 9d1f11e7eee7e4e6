_base_ = '../solov2/solov2_r50_fpn_ms-3x_coco.py'
model = dict(test_cfg=dict(min_part=0.2))
