"""A training goes on from a checkpoint of its own, and says before it starts why from no other."""

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.utils.data import Dataset

import mmsolov2  # noqa: F401
from mmsolov2.cli.resume import require_same_training
from mmsolov2.errors import InputError

CLASSES = ['circle', 'square', 'star']


class Items(Dataset):
    """Two inputs of some classes."""

    def __init__(self, classes) -> None:
        self.metainfo = dict(classes=tuple(classes))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.ones(2))


class Toy(BaseModel):
    """A classifier of two layers."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, classes)

    def forward(self, inputs, mode: str) -> dict:
        return dict(loss=self.last(self.first(torch.stack(inputs))).square().sum())


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, **options)


def two_groups(model):
    groups = [dict(params=part.parameters()) for part in (model.first, model.last)]
    return torch.optim.SGD(groups, lr=0.01, momentum=0.9)


def bias_frozen_out(model):
    return torch.optim.SGD([model.first.weight, model.last.weight], lr=0.01, momentum=0.9)


def runner_of(
    folder: Path, *, classes=CLASSES, heads=None, width=4, optimizer=sgd, epochs=1, resume=None
) -> Runner:
    """A runner before its training; it resumes if there is a file to resume."""
    model = Toy(heads or len(classes), width)
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Items(classes), sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=OptimWrapper(optimizer(model)),
        default_scope='mmdet',
        experiment_name=f'{folder.name}_{epochs}_{resume is not None}',
        log_level='ERROR',
        resume=resume is not None,
        load_from=resume or None,
        cfg=dict(resume=resume is not None, load_from=resume or None),
    )
    _ = runner.train_loop  # builds the data
    return runner


@pytest.fixture(scope='module')
def saved(tmp_path_factory) -> Path:
    """The checkpoint of an epoch."""
    folder = tmp_path_factory.mktemp('saved')
    runner_of(folder).train()
    return folder / 'epoch_1.pth'


def refusal(folder: Path, resume: Path, **settings) -> str:
    """What is said to a runner that would resume a checkpoint."""
    with pytest.raises(InputError) as caught:
        require_same_training(runner_of(folder, resume=str(resume), **settings))
    text = str(caught.value)
    assert text.startswith(f'{resume}: ') and '\n' not in text
    assert text.endswith(
        f': leave --resume out, and start from the weights with --cfg-options load_from={resume}'
    )
    return text


def test_its_own_training_goes_on(tmp_path, saved):
    runner = runner_of(tmp_path, resume=str(saved), epochs=2)
    require_same_training(runner)
    runner.train()
    assert runner.epoch == 2 and len(runner.message_hub.get_scalar('train/loss').data[0]) == 4


def test_nothing_to_resume(tmp_path):
    require_same_training(runner_of(tmp_path))
    require_same_training(runner_of(tmp_path, resume=''))  # the newest of a folder without any


def test_the_newest_of_the_work_folder_is_asked(saved):
    runner = runner_of(saved.parent, resume='', classes=['circle'])
    with pytest.raises(InputError, match=r'epoch_1\.pth: its training had 3 classes'):
        require_same_training(runner)


@pytest.mark.parametrize(
    ('classes', 'said'),
    [
        (
            [*CLASSES, 'moon'],
            '3 classes (circle, square, star), this config has 4 (circle, square, ',
        ),
        (CLASSES[:2], '3 classes (circle, square, star), this config has 2 (circle, square): '),
        (CLASSES[::-1], "the class 'circle' where this config has 'star': "),
        ([*CLASSES[:2], 'moon'], "the class 'star' where this config has 'moon': "),
    ],
)
def test_other_classes(tmp_path, saved, classes, said):
    assert f'its training had {said}' in refusal(tmp_path, saved, classes=classes)


def test_other_heads(tmp_path, saved):
    text = refusal(tmp_path, saved, heads=7)
    assert 'another model, 2 of the 4 entries of Toy match; the first that do not: ' in text
    assert 'last.weight (is (3, 4), needs (7, 4))' in text


def test_another_model(tmp_path, saved):
    assert '1 of the 4 entries of Toy match' in refusal(tmp_path, saved, width=5)


@pytest.mark.parametrize(
    ('optimizer', 'said'),
    [
        (two_groups, 'had 4 parameters in 1 groups, this config has 4 in 2'),
        (bias_frozen_out, 'had 4 parameters in 1 groups, this config has 2 in 1'),
        (lambda model: torch.optim.AdamW(model.parameters()), 'optimizer, one with dampening, mom'),
    ],
    ids=['groups', 'parameters', 'kind'],
)
def test_another_optimizer(tmp_path, saved, optimizer, said):
    assert said in refusal(tmp_path, saved, optimizer=optimizer)


def test_other_settings_of_the_same_optimizer_go_on(tmp_path, saved):
    settings = dict(optimizer=lambda model: sgd(model, weight_decay=0.1, nesterov=True))
    require_same_training(runner_of(tmp_path, resume=str(saved), **settings))


def changed(saved: Path, folder: Path, change) -> Path:
    """A copy of a checkpoint with a change."""
    content = torch.load(saved, weights_only=True)
    change(content)
    torch.save(content, folder / 'changed.pth')
    return folder / 'changed.pth'


@pytest.mark.parametrize(
    'change',
    [
        lambda content: content.pop('meta'),
        lambda content: content['meta'].pop('iter'),
        lambda content: content.update(meta=3),
        lambda content: content.pop('message_hub'),
        lambda content: content['message_hub'].pop('runtime_info'),
        lambda content: content['message_hub'].update(log_scalars=3),
        lambda content: content['meta'].update(epoch='1'),
    ],
)
def test_weights_alone(tmp_path, saved, change):
    file = changed(saved, tmp_path, change)
    assert 'it holds weights alone, no training to go on with' in refusal(tmp_path, file)


@pytest.mark.parametrize('content', [{}, dict(meta=dict(dataset_meta={})), dict(meta=None)])
@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_files_of_weights_alone(tmp_path, content, kind):
    """Also before a runner of another kind, which has built nothing that could be compared."""
    file = tmp_path / 'a.pth'
    torch.save(content, file)
    runner = runner_of(tmp_path, resume=str(file)) if kind is Runner else flexible(tmp_path, file)
    with pytest.raises(InputError, match=r'a\.pth: it holds weights alone, .*load_from=/.*a\.pth$'):
        require_same_training(runner)


def flexible(folder: Path, resume: Path) -> FlexibleRunner:
    return FlexibleRunner(
        model=Toy(3, 4),
        work_dir=str(folder),
        experiment_name=folder.name,
        default_scope='mmdet',
        log_level='ERROR',
        cfg=dict(resume=True, load_from=str(resume)),
    )


def test_runners_of_another_kind_go_on(tmp_path, saved):
    """From a training, or a folder, as that of DeepSpeed."""
    require_same_training(flexible(tmp_path, saved))
    require_same_training(flexible(tmp_path, tmp_path))
    with pytest.raises(InputError, match='there is no such checkpoint'):
        require_same_training(flexible(tmp_path, tmp_path / 'none.pth'))


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (
            lambda content: content['state_dict'].pop('last.bias'),
            'first that do not: last.bias (mi',
        ),
        (lambda content: content.update(optimizer=3), 'had 0 parameters in 0 groups'),
        (lambda content: content['optimizer'].update(param_groups=[3]), 'had 0 parameters in 0'),
        (
            lambda content: content['optimizer']['param_groups'].pop(),
            'had 0 parameters in 0 groups',
        ),
        (
            lambda content: content['optimizer']['param_groups'][0]['params'].pop(),
            'had 3 parameters',
        ),
    ],
)
def test_parts_that_are_missing(tmp_path, saved, change, said):
    assert said in refusal(tmp_path, changed(saved, tmp_path, change))


def test_what_is_no_weight(tmp_path, saved):
    file = changed(saved, tmp_path, lambda content: content['state_dict'].update(extra=3))
    runner = runner_of(tmp_path, resume=str(file))
    with pytest.raises(InputError, match='changed.pth: 1 entries are no tensors, extra first'):
        require_same_training(runner)


def test_without_an_optimizer_training_goes_on(tmp_path, saved):
    """CheckpointHook(save_optimizer=False) saves none, and mmengine takes a new one."""
    file = changed(saved, tmp_path, lambda content: content.pop('optimizer'))
    require_same_training(runner_of(tmp_path, resume=str(file)))


@pytest.mark.parametrize('meta', [{}, dict(classes=3), None, 'circle'])
def test_classes_that_are_not_told_are_no_reason(tmp_path, saved, meta):
    file = changed(saved, tmp_path, lambda content: content['meta'].update(dataset_meta=meta))
    require_same_training(runner_of(tmp_path, resume=str(file)))


def test_names_of_classes_in_capitals(tmp_path, saved):
    meta = dict(CLASSES=('circle',))
    file = changed(saved, tmp_path, lambda content: content['meta'].update(dataset_meta=meta))
    assert 'its training had 1 classes (circle)' in refusal(tmp_path, file)


def test_code_in_a_checkpoint_is_not_run(tmp_path, saved):
    """mmengine's runner would read the text as a config, which is Python."""
    proof = tmp_path / 'proof'
    text = f'open({str(proof)!r}, "w").close()'
    file = changed(saved, tmp_path, lambda content: content['meta'].update(config=text))
    runner = runner_of(tmp_path, resume=str(file), epochs=2)
    require_same_training(runner)
    runner.train()
    assert runner.epoch == 2 and not proof.exists()
