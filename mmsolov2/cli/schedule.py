"""A config's schedule in another number of epochs."""

from collections.abc import Mapping

from mmengine.config import Config

from mmsolov2.errors import InputError


def schedule_options(config: Config, epochs: int) -> dict[str, int | list[int]]:
    """Options, as of ``--cfg-options``, that scale a config's schedule to a number of epochs.

    What changes by iterations, as a warm-up, stays.

    Raises:
        InputError: if the config does not train in epochs.
    """
    if 'max_epochs' not in config.train_cfg:
        raise InputError(f'{config.filename}: --epochs needs a config that trains in epochs')
    share = epochs / config.train_cfg.max_epochs
    options: dict[str, int | list[int]] = {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
    }
    for index, scheduler in enumerate(config.param_scheduler):
        if scheduler.get('by_epoch', True):
            scaled = scaled_scheduler(scheduler, share)
            options |= {f'param_scheduler.{index}.{name}': scaled[name] for name in scaled}
    return options


def scaled_scheduler(scheduler: Mapping, share: float) -> dict[str, int | list[int]]:
    """The epochs in a scheduler's settings times a factor; it stays at least one epoch long."""
    least = dict(begin=0, end=round(scheduler.get('begin', 0) * share) + 1, T_max=1)
    names = [name for name in least if name in scheduler]
    scaled: dict[str, int | list[int]] = {
        name: max(round(scheduler[name] * share), least[name]) for name in names
    }
    if 'milestones' in scheduler:
        scaled['milestones'] = [max(round(one * share), 1) for one in scheduler['milestones']]
    return scaled
