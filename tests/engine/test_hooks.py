"""The checks of class numbers and of finite values, and the time of the mask NMS."""

from pathlib import Path

import pytest
import torch
from mmdet.datasets import ConcatDataset, MultiImageMixDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.dataset import BaseDataset, RepeatDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import Dataset

from mmsolov2.engine import ClassCheckHook, NMSTimeHook
from mmsolov2.errors import InputError
from mmsolov2.fileio import latest_checkpoint


class Toy(BaseModel):
    """A model with or without a head of some classes."""

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        if num_classes is not None:
            self.mask_head = nn.Identity()
            self.mask_head.num_classes = num_classes

    def forward(self, inputs, mode: str, **others):
        return dict(loss=self.weight.sum()) if mode == 'loss' else [dict()]


class Data(BaseDataset):
    """One empty image, of a file with some classes."""

    def __init__(self, *classes: str) -> None:
        super().__init__(metainfo=dict(classes=classes) if classes else None, lazy_init=True)
        self.ann_file = 'instances.json'

    def load_data_list(self) -> list[dict]:
        return [dict(inputs=torch.zeros(1))]


class Plain(Dataset):
    """torch's kind of dataset, without metainfo; mmengine warns of it, and goes on."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=torch.zeros(1))


class Silent(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {}


TWO, THREE = ('ant', 'bee'), ('ant', 'bee', 'cat')


def loader(dataset: Dataset) -> dict:
    return dict(dataset=dataset, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))


def runner(
    tmp_path, model: Toy, *, train=None, val=None, test=None, metric=Silent, epochs=1, **options
) -> Runner:
    """A runner with the check, for the datasets that are given."""
    file = tmp_path / 'my_config.py'
    file.touch()
    settings = {}
    if train is not None:
        settings.update(
            train_dataloader=loader(train),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        )
    for name, dataset in dict(val=val, test=test).items():
        if dataset is not None:
            settings.update(
                {
                    f'{name}_dataloader': loader(dataset),
                    f'{name}_cfg': {},
                    f'{name}_evaluator': Evaluator(metric()),
                }
            )
    return Runner(
        model=model,
        work_dir=str(tmp_path),
        cfg=Config({}, filename=str(file)),
        custom_hooks=[dict(type='mmsolov2.ClassCheckHook')],
        default_hooks=dict(checkpoint=None),
        default_scope='mmdet',
        experiment_name=tmp_path.name,
        log_level='ERROR',
        **settings,
        **options,
    )


def message(action) -> str:
    with pytest.raises(InputError) as caught:
        action()
    return str(caught.value)


def test_message(tmp_path):
    text = message(runner(tmp_path, Toy(2), train=Data(*THREE)).train)
    assert text.startswith(f'{tmp_path / "my_config.py"}: ')
    assert 'num_classes is 2' in text and 'has 3 classes' in text
    assert 'instances.json' in text and "('ant', 'bee', 'cat')" in text
    assert 'num_classes=3' in text and 'metainfo=dict(classes=' in text


def test_message_without_a_config_file(tmp_path):
    training = runner(tmp_path, Toy(2), train=Data(*THREE))
    training.cfg = Config({})
    assert message(training.train).startswith("training: the head's num_classes is 2")


def test_training_stops_before_the_first_iteration(tmp_path):
    model = Toy(3)
    message(runner(tmp_path, model, train=Data(*TWO)).train)
    assert model.weight.item() == 1


def test_repeated_training_data(tmp_path):
    dataset = RepeatDataset(Data(*THREE), times=2)
    assert 'has 3 classes' in message(runner(tmp_path, Toy(2), train=dataset).train)
    runner(tmp_path, Toy(3), train=dataset).train()


def test_validation_data_are_checked_before_training(tmp_path):
    model = Toy(2)
    text = message(runner(tmp_path, model, train=Data(*TWO), val=Data(*THREE)).train)
    assert 'num_classes is 2' in text and 'has 3 classes' in text
    assert model.weight.item() == 1


def test_validation(tmp_path):
    assert 'has 3 classes' in message(runner(tmp_path, Toy(2), val=Data(*THREE)).val)
    runner(tmp_path, Toy(3), val=Data(*THREE)).val()


def test_validation_data_are_checked_once(tmp_path):
    """Where the evaluator has another file, every image of the data is looked up in it."""
    asked = []

    class Asked(Figures):
        def check_data(self, classes, images) -> None:
            asked.append(len(list(images)))

    training = runner(tmp_path, Toy(2), train=Data(*TWO), val=Data(*TWO), metric=Asked, epochs=3)
    training.train()
    assert asked == [1]


def test_testing(tmp_path):
    assert 'has 3 classes' in message(runner(tmp_path, Toy(2), test=Data(*THREE)).test)
    runner(tmp_path, Toy(3), test=Data(*THREE)).test()


@pytest.mark.parametrize(
    ('classes', 'name', 'places'),
    [
        (('bee', 'ant'), 'bee', (0, 1)),
        (('cat', 'ant'), 'ant', (1, 0)),
    ],
)
def test_a_class_of_the_model_in_another_place(tmp_path, classes, name, places):
    """Its labels would be those of another class: figures of zero for perfect predictions."""
    text = message(runner(tmp_path, Toy(2), train=Data(*TWO), val=Data(*classes)).train)
    assert text == (
        f'instances.json: {name!r} is class {places[0]} of this dataset, and class {places[1]} of '
        "the model: set metainfo=dict(classes=('ant', 'bee')), whatever the order of the file"
    )


def test_joined_data_are_checked_each(tmp_path):
    """mmdet's wrapper has a list of metainfo where the parts differ in anything, as in palettes."""
    parts = Data(*TWO), Data(*TWO)
    for number, part in enumerate(parts):
        part._metainfo['palette'] = [(number, 2, 3)] * 2
    runner(tmp_path, Toy(2), train=ConcatDataset(parts)).train()
    turned = ConcatDataset([Data(*TWO), Data(*TWO[::-1])], ignore_keys=['classes'])
    assert "'bee' is class 0 of this dataset" in message(
        runner(tmp_path, Toy(2), train=turned).train
    )
    more = ConcatDataset([Data(*TWO), Data(*THREE)])
    assert 'has 3 classes' in message(runner(tmp_path, Toy(2), train=more).train)


def test_a_checkpoint_says_which_class_is_where(tmp_path):
    file = str(tmp_path / 'weights.pth')
    meta = dict(dataset_meta=dict(classes=['bee', 'ant']))
    torch.save(dict(meta=meta, state_dict=Toy(2).state_dict()), file)
    text = message(runner(tmp_path, Toy(2), test=Data(*TWO), load_from=file).test)
    assert "'ant' is class 0 of this dataset, and class 1 of the model" in text
    runner(tmp_path, Toy(2), test=Data('bee', 'ant'), load_from=file).test()
    runner(tmp_path, Toy(2), test=Data('Biene', 'Ameise'), load_from=file).test()  # other names


class Figures(Silent):
    """Knows no image of its file, as a CocoInstanceMetric."""

    ann_file = 'others.json'

    def check_data(self, classes, images) -> None:
        assert classes == TWO
        for image in images:
            raise InputError(f'{self.ann_file}: no image of {sorted(image)}')


def test_an_evaluator_of_other_images(tmp_path):
    model = Toy(2)
    data = RepeatDataset(Data(*TWO), times=2)
    for use in (
        runner(tmp_path, model, train=Data(*TWO), val=data, metric=Figures).train,
        runner(tmp_path, model, val=data, metric=Figures).val,
        runner(tmp_path, model, test=data, metric=Figures).test,
    ):
        assert message(use).startswith('others.json: no image of')
    assert model.weight.item() == 1
    data.dataset.ann_file = 'others.json'
    runner(tmp_path, model, test=data, metric=Figures).test()


@pytest.mark.parametrize('step', ['Mosaic', 'MixUp', 'CachedMosaic'])
@pytest.mark.parametrize('joined', [False, True])
def test_wrappers_that_mix_images_without_their_masks(tmp_path, step, joined):
    data = Data(*TWO)
    data.flag = [0]
    mixed = MultiImageMixDataset(data, [dict(type=step, img_scale=(8, 8))])
    if joined:
        mixed = torch.utils.data.ConcatDataset([Data(*TWO), mixed])
    ClassCheckHook().before_train(runner(tmp_path, Toy(2), train=mixed))  # boxes need no masks
    data.pipeline.transforms.append(LoadAnnotations(with_mask=True))
    training = runner(tmp_path, Toy(2), train=mixed)
    if step == 'CachedMosaic':
        ClassCheckHook().before_train(training)
    else:
        text = message(training.train)
        assert text.startswith(f'instances.json: the step {step} of its pipeline does not move')
        assert f'Cached{step}' in text


def test_training_without_validation(tmp_path):
    model = Toy(2)
    training = runner(tmp_path, model, train=Data(*TWO))
    training.train()
    assert training.val_loop is None and training.test_loop is None
    assert model.weight.item() != 1


def test_only_the_loops_of_the_run_are_built(tmp_path):
    """Test data of another project do not matter to training, nor training data to a test."""
    everything = dict(train=Data(*TWO), val=Data(*TWO), test=Data(*THREE))
    training = runner(tmp_path, Toy(2), **everything)
    training.train()
    assert isinstance(training._val_loop, BaseLoop) and isinstance(training._test_loop, dict)
    testing = runner(tmp_path, Toy(3), **everything)
    testing.test()
    assert isinstance(testing._train_loop, dict) and isinstance(testing._val_loop, dict)


@pytest.mark.parametrize('classes', [TWO, THREE])
def test_model_without_mask_head_is_left_alone(tmp_path, classes):
    model = Toy()
    runner(tmp_path, model, train=Data(*classes), val=Data(*classes)).train()
    assert model.weight.item() != 1


def test_heads_inside_a_two_stage_model(tmp_path):
    model = Toy()
    model.roi_head = nn.Module()
    model.roi_head.bbox_head = Toy(2).mask_head
    assert 'has 3 classes' in message(runner(tmp_path, model, train=Data(*THREE)).train)


@pytest.mark.parametrize('num_classes', [None, 2])
@pytest.mark.parametrize('dataset', [Data(), Plain()], ids=['no classes', 'no metainfo'])
def test_dataset_without_classes_is_left_alone(tmp_path, dataset, num_classes):
    model = Toy(num_classes)
    runner(tmp_path, model, train=dataset).train()
    assert model.weight.item() != 1


def test_wrapped_model(tmp_path):
    """DataParallel is among mmengine's model wrappers."""
    testing = runner(tmp_path, Toy(2), test=Data(*THREE))
    testing.model = nn.DataParallel(testing.model)
    assert 'num_classes is 2' in message(lambda: ClassCheckHook().before_test(testing))


def test_hook_is_registered():
    assert isinstance(HOOKS.build(dict(type='mmsolov2.ClassCheckHook')), ClassCheckHook)


class Suppressing(Toy):
    """A model whose head has a mask NMS, called with 1, 2, 3, … candidates."""

    def __init__(self, nms=lambda scores, labels, masks: scores / 2) -> None:
        super().__init__(2)
        self.mask_head.nms = nms
        self.count = 0

    def forward(self, inputs, mode: str, **others):
        self.count += 1
        assert self.mask_head.nms(torch.ones(self.count), None, None).tolist() == [0.5] * self.count
        return super().forward(inputs, mode, **others)


class Halving(nn.Module):
    """A mask NMS that is a module."""

    def forward(self, scores, labels, masks):
        return scores / 2


@pytest.mark.parametrize('nms', [lambda scores, labels, masks: scores / 2, Halving()])
def test_the_nms_is_timed(nms, tmp_path):
    model = Suppressing(nms)
    before = set(vars(model.mask_head)), dict(model.mask_head.named_children())
    testing = runner(tmp_path, model, test=RepeatDataset(Data(*TWO), times=3))
    testing.register_hook(NMSTimeHook())
    figures = testing.test()
    assert figures['nms/candidates'] == 2
    assert testing.message_hub.get_scalar('test/nms/candidates').current() == 2  # in the log
    assert 0 < figures['nms/milliseconds'] < 1000
    assert model.mask_head.nms is nms
    assert (set(vars(model.mask_head)), dict(model.mask_head.named_children())) == before


def test_a_model_without_nms_is_tested_as_ever(tmp_path):
    for name, model in dict(head=Toy(2), none=Toy()).items():
        (tmp_path / name).mkdir()
        testing = runner(tmp_path / name, model, test=Data(*TWO))
        testing.register_hook(NMSTimeHook())
        assert 'nms/candidates' not in testing.test()


class Diverging(Toy):
    """A model whose weight, buffer or loss is not finite from some iteration on."""

    def __init__(self, what: str, value: float, iteration: int) -> None:
        super().__init__()
        self.register_buffer('running_mean', torch.zeros(1))
        self.register_buffer('attention_mask', torch.zeros(1))
        self.what, self.value, self.left = what, value, iteration

    def train_step(self, data, optim_wrapper) -> dict:
        self.left -= 1
        logs = super().train_step(data, optim_wrapper)
        if self.left == 0 and self.what == 'loss':
            logs['loss_mask'] = torch.tensor(self.value)
        elif self.left == 0:
            getattr(self, self.what).data.fill_(self.value)
        return logs


def diverging(tmp_path, *arguments, **settings) -> Runner:
    """A runner of 5 epochs of 4 iterations, which keeps one checkpoint and checks values."""
    model = Diverging(*arguments)
    data = RepeatDataset(Data(), times=4)
    saving = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, by_epoch=True)
    saving.update(settings.pop('saving', {}))
    return Runner(
        model=model,
        work_dir=str(tmp_path),
        cfg=Config({}),
        train_dataloader=loader(data),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)),
        custom_hooks=[dict(type='mmsolov2.FiniteHook'), *settings.pop('hooks', [])],
        default_hooks=dict(checkpoint=saving, **settings.pop('quiet', {})),
        default_scope='mmdet',
        experiment_name=tmp_path.name,
        log_level='ERROR',
        **{'train_cfg': dict(by_epoch=True, max_epochs=5), **settings},
    )


def kept(folder: Path) -> dict[str, float]:
    """The weight in every checkpoint of a folder."""
    return {
        path.name: torch.load(path, weights_only=False)['state_dict']['weight'].item()
        for path in folder.glob('*.pth')
    }


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (('weight', float('nan'), 10), 'is not finite in iteration 11 (loss: nan)'),
        (('weight', float('inf'), 10), 'is not finite in iteration 11 (loss: inf)'),
        (('weight', float('nan'), 12), '1 weights are not finite, weight first'),
        (('running_mean', float('inf'), 10), '1 weights are not finite, running_mean first'),
        (('loss', float('nan'), 10), 'is not finite in iteration 10 (loss: '),
    ],
)
def test_a_diverged_training_keeps_its_checkpoint(tmp_path, arguments, said):
    text = message(diverging(tmp_path, *arguments).train)
    assert (
        text.startswith('training: training has diverged: ') and said in text and '\n' not in text
    )
    assert text.endswith(f'the last checkpoint before: {tmp_path}/epoch_2.pth')
    assert kept(tmp_path) == {'epoch_2.pth': pytest.approx(0.2)}
    assert latest_checkpoint(str(tmp_path)) == f'{tmp_path}/epoch_2.pth'


def test_all_entries_of_the_loss_are_named(tmp_path):
    text = message(diverging(tmp_path, 'loss', float('nan'), 1).train)
    assert 'in iteration 1 (loss: 1, loss_mask: nan)' in text
    assert text.endswith('the last checkpoint before: none') and not kept(tmp_path)


@pytest.mark.parametrize('what', ['weight', 'running_mean'])
def test_checkpoints_that_count_iterations(tmp_path, what):
    text = message(
        diverging(
            tmp_path,
            what,
            float('nan'),
            10,
            saving=dict(by_epoch=False, interval=5),
            train_cfg=dict(by_epoch=False, max_iters=20),
        ).train
    )
    assert f'1 weights are not finite, {what} first' in text
    assert list(kept(tmp_path)) == ['iter_5.pth']


def test_the_last_iteration_is_not_saved_either(tmp_path):
    settings = dict(saving=dict(by_epoch=False, interval=5), train_cfg=dict(max_iters=7))
    settings['train_cfg']['by_epoch'] = False
    message(diverging(tmp_path, 'running_mean', float('nan'), 6, **settings).train)
    assert list(kept(tmp_path)) == ['iter_5.pth']


def test_the_best_checkpoint_is_checked(tmp_path):
    running = diverging(
        tmp_path,
        'running_mean',
        float('nan'),
        6,
        saving=dict(by_epoch=False, interval=100, save_best='acc'),
        train_cfg=dict(by_epoch=False, max_iters=20, val_interval=4),
        val_dataloader=loader(Data()),
        val_cfg={},
        val_evaluator=Evaluator(Score()),
    )
    assert 'running_mean first' in message(running.train)
    assert list(kept(tmp_path)) == ['best_acc_iter_4.pth']


class Score(Silent):
    """A figure that rises."""

    def compute_metrics(self, results: list) -> dict:
        self.count = getattr(self, 'count', 0) + 1
        return dict(acc=self.count)


def test_an_averaged_model_is_checked(tmp_path):
    """The averages keep what a weight was once."""
    averaging = dict(type='EMAHook')
    running = diverging(tmp_path, 'loss', 1.0, 0, hooks=[averaging, dict(type=Break)])
    assert '1 weights are not finite, module.weight first' in message(running.train)


class Break(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        (averaging,) = (hook for hook in runner.hooks if hasattr(hook, 'ema_model'))
        averaging.ema_model.module.weight.data.fill_(float('nan'))


@pytest.mark.parametrize('value', [float('-inf'), float('nan')])
def test_other_buffers_need_not_be_finite(tmp_path, value):
    diverging(tmp_path, 'attention_mask', value, 3, hooks=[dict(type='EMAHook')]).train()
    assert list(kept(tmp_path)) == ['epoch_5.pth']


class Move(Hook):
    """Takes the loss where it cannot be fetched, after mmengine has done so."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        outputs['loss'] = outputs['loss'].to('meta')


def test_the_loss_is_not_fetched_again(tmp_path):
    diverging(tmp_path, 'loss', 1.0, 0, hooks=[dict(type=Move)]).train()
    text = message(diverging(tmp_path, 'weight', float('nan'), 10, hooks=[dict(type=Move)]).train)
    assert 'is not finite in iteration 11 (loss: nan)' in text


class Resumed(Hook):
    """Fills the log as a checkpoint does."""

    def before_train(self, runner) -> None:
        runner.message_hub.update_scalar('train/loss', 1.0)


def test_the_loss_where_mmengine_does_not_log_it(tmp_path):
    running = diverging(
        tmp_path,
        'weight',
        float('nan'),
        10,
        hooks=[dict(type=Resumed)],
        quiet=dict(runtime_info=None, logger=None),
    )
    assert 'is not finite in iteration 11 (loss: nan)' in message(running.train)


@pytest.mark.parametrize('loss', [1.0, -3e38])
def test_a_finite_training_goes_on(tmp_path, loss):
    diverging(tmp_path, 'loss', loss, 3).train()
    assert list(kept(tmp_path)) == ['epoch_5.pth']
