custom_imports = dict(imports=['mmsolov2'])
default_scope = 'mmdet'  # not mmsolov2: mmdet's tools and inferencers look things up in mmdet

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        max_keep_ckpts=3,
        backend_args=dict(backend='mmsolov2.atomic'),  # a killed run leaves no half file
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    class_check=dict(type='mmsolov2.ClassCheckHook'),
    finite=dict(type='mmsolov2.FiniteHook'),  # a diverged run stops, and saves nothing more
    epoch_seed=dict(type='mmsolov2.EpochSeedHook'),  # a resumed run repeats no augmentation
    curves=dict(type='mmsolov2.CurvesHook'),  # curves.png in the work folder
)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),  # the tools take gloo where there is no GPU
)
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='mmsolov2.InstanceVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)

log_level = 'INFO'
load_from = None
resume = False
