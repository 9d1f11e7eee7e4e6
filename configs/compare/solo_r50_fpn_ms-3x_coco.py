_base_ = '../_base_/heads/solo.py'
