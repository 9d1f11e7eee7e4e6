"""A config's schedule in another number of epochs."""

from mmengine.config import Config

from mmsolov2.cli.schedule import scaled_scheduler, schedule_options


def test_schedules_are_squeezed():
    config = Config(
        dict(
            train_cfg=dict(max_epochs=36, val_interval=1),
            param_scheduler=[
                dict(type='LinearLR', by_epoch=False, begin=0, end=500),
                dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33]),
                dict(type='CosineAnnealingLR', begin=0, end=36, T_max=36),
            ],
        )
    )
    config.merge_from_dict(schedule_options(config, 12))
    warmup, steps, cosine = config.param_scheduler
    assert config.train_cfg == dict(max_epochs=12, val_interval=12)
    assert warmup.end == 500
    assert (steps.end, steps.milestones) == (12, [9, 11])
    assert (cosine.end, cosine.T_max) == (12, 12)


def test_a_short_range_stays_an_epoch_long():
    scheduler = dict(type='CosineAnnealingLR', begin=1, end=2, T_max=1, milestones=[1, 2])
    scaled = dict(begin=0, end=1, T_max=1, milestones=[1, 1])
    assert scaled_scheduler(scheduler, 1 / 12) == scaled
