_base_ = '../_base_/heads/decoupled-solo.py'
