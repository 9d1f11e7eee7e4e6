_base_ = '../_base_/heads/mask-rcnn.py'
