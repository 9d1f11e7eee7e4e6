"""Whether a training can go on from a checkpoint, asked before its first iteration."""

import os
import textwrap
from collections.abc import Mapping
from typing import TypeGuard

from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmsolov2.errors import InputError
from mmsolov2.models.state_dicts import class_names, mismatches, unwrap_model, weights_for

WEIGHTS_ALONE = 'it holds weights alone, no training to go on with'


def require_same_training(runner: Runner) -> None:
    """Check the checkpoint that a runner is about to resume, if any, against what it has built.

    Of a runner of another kind than mmengine's usual one, which may resume a folder, only a file is
    checked, for whether it holds a training.

    Raises:
        InputError: if it holds no training, or one of other classes, of another model or of another
            optimizer.
    """
    if not runner.cfg.get('resume'):
        return
    filename = runner.cfg.get('load_from') or find_latest_checkpoint(runner.work_dir)
    if filename is None or (not isinstance(runner, Runner) and os.path.isdir(filename)):
        return
    checkpoint = CheckpointLoader.load_checkpoint(filename, 'cpu', logger='silent')
    try:
        reason = _hinders_resuming(runner, checkpoint)
    except InputError as error:
        raise InputError(f'{filename}: {error}') from error
    if reason:
        raise InputError(
            f'{filename}: {reason}: leave --resume out, and start from the weights with '
            f'--cfg-options load_from={filename}'
        )


def _hinders_resuming(runner: Runner, checkpoint: Mapping) -> str | None:
    """Why a runner cannot go on with the training in a checkpoint, or None if it can."""
    meta, hub = checkpoint.get('meta'), checkpoint.get('message_hub')
    if not _has(meta, int, 'epoch', 'iter'):
        return WEIGHTS_ALONE
    if not isinstance(runner, Runner):
        return None
    if not _has(hub, dict, 'log_scalars', 'runtime_info', 'resumed_keys'):
        return WEIGHTS_ALONE
    theirs = class_names(meta.get('dataset_meta'))
    ours = class_names(getattr(runner.train_dataloader.dataset, 'metainfo', None))
    if theirs and ours and theirs != ours:
        return _other_classes(theirs, ours)
    model = unwrap_model(runner.model)
    matched, wrong = mismatches(model, weights_for(model, checkpoint))
    if wrong:
        return (
            f'its training had another model, {matched} of the {len(model.state_dict())} entries '
            f'of {type(model).__name__} match; the first that do not: {", ".join(wrong[:5])}'
        )
    return _other_optimizer(runner.optim_wrapper.state_dict(), checkpoint.get('optimizer'))


def _has(value: object, kind: type, *keys: str) -> TypeGuard[dict]:
    """Whether a value of a file is a dict that has values of a type under certain keys."""
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key in keys)


def _other_classes(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    """How two lists of classes differ: labels are places in the list."""
    if len(theirs) != len(ours):
        old, new = [textwrap.shorten(', '.join(names), 200) for names in (theirs, ours)]
        return (
            f'its training had {len(theirs)} classes ({old}), this config has {len(ours)} ({new})'
        )
    old, new = next(pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1])
    return f'its training had the class {old!r} where this config has {new!r}'


def _other_optimizer(ours: Mapping, theirs: object) -> str | None:
    """What tells the state of another optimizer apart; None if nothing does, or there are several.

    Releases of torch add settings to an optimizer and take none away, so that only another one
    has settings that ours lacks and lacks some of ours.
    """
    if theirs is None or 'param_groups' not in ours:
        return None
    (our_sizes, our_names), (sizes, names) = _groups(ours), _groups(theirs)
    if sizes != our_sizes:
        return (
            f'its optimizer had {sum(sizes)} parameters in {len(sizes)} groups, this config has '
            f'{sum(our_sizes)} in {len(our_sizes)}, or in another order'
        )
    if names - our_names and our_names - names:
        return (
            f'its training had another optimizer, one with {", ".join(sorted(names - our_names))}; '
            f'that of this config has {", ".join(sorted(our_names - names))}'
        )
    return None


def _groups(state: object) -> tuple[list[int], set[str]]:
    """The numbers of parameters in an optimizer's groups, and the names of its settings."""
    found = state.get('param_groups') if isinstance(state, Mapping) else None
    groups = [group for group in found or () if _has(group, list, 'params')]
    names = {str(name) for group in groups for name in group}
    volatile = {'params', 'param_names', 'lr', 'initial_lr'}
    return [len(group['params']) for group in groups], names - volatile
