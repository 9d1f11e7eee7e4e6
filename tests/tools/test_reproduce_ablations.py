"""Rows over any base, runs that go on where they ended, and the table."""

import importlib.util
import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from unittest.mock import Mock

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from mmsolov2.errors import InputError

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / 'configs/shapes/solov2-light_r18_fpn_shapes.py'

spec = importlib.util.spec_from_file_location('ablations', ROOT / 'tools/reproduce_ablations.py')
ablations = importlib.util.module_from_spec(spec)
sys.modules['ablations'] = ablations
spec.loader.exec_module(ablations)


def arguments(tmp_path, *rows: str, config=SHAPES, **options) -> Namespace:
    defaults = dict(seeds=[0, 1], epochs=None, jobs=2, gpus=None, cfg_options=None)
    settings = {**defaults, **options, 'rows': rows, 'config': str(config)}
    return Namespace(**settings, out_dir=str(tmp_path / 'out'))


# Rows and configs


def test_every_leaf_is_a_row_and_every_row_a_leaf():
    leaves = {path.stem for path in (ROOT / 'configs/ablations').glob('*.py')}
    leaves |= {path.stem for path in (ROOT / 'configs/compare').glob('*.py')}
    assert {ablations.row_file(row) for row in ablations.ROWS if row != 'default'} == leaves


@pytest.mark.parametrize(
    ('names', 'rows'),
    [
        (['coords'], ['coords-none', 'coords-kernel', 'coords-feature', 'coords-both']),
        (['nms-fast', 'default', 'nms-hard'], ['default', 'nms-hard', 'nms-fast']),
    ],
)
def test_rows_are_chosen_by_name_or_first_word(names, rows):
    assert ablations.chosen_rows(names) == rows


def test_unknown_rows_are_refused():
    with pytest.raises(InputError, match=r"no rows \['coord'\]; there are default, kernel-3x3x64"):
        ablations.chosen_rows(['coords', 'coord'])


@pytest.mark.parametrize('row', ablations.ROWS)
def test_a_row_changes_a_base_of_other_data_and_width(row, tmp_path):
    base = Config.fromfile(SHAPES)
    config = ablations.row_config(row, SHAPES, tmp_path / f'{row}.py')
    init_default_scope('mmdet')
    model = MODELS.build(config.model)
    assert model.backbone.base_channels == 32 and model.neck.out_channels == 64
    head = config.model.get('mask_head') or config.model.roi_head.mask_head
    assert head.num_classes == 5
    config.model = base.model
    assert config.pretty_text == base.pretty_text  # nothing but the model is another


def test_changes_of_a_row_are_those_of_its_leaf(tmp_path):
    config = ablations.row_config('coords-kernel', SHAPES, tmp_path / 'row.py')
    assert not config.model.mask_neck.use_coords and config.model.mask_head.use_coords
    config = ablations.row_config('heads-solo', SHAPES, tmp_path / 'row.py')
    assert config.model.mask_head.type == 'SOLOHead'


def test_epochs_of_a_config_without_epochs_are_refused(tmp_path):
    file = tmp_path / 'iterations.py'
    file.write_text(f"_base_ = '{SHAPES}'\ntrain_cfg = dict(_delete_=True, max_iters=9)\n")
    with pytest.raises(InputError, match=r'iterations\.py: --epochs needs a config that trains in'):
        ablations.plan_runs(arguments(tmp_path, 'default', config=file, epochs=2))


def test_rows_that_do_not_fit_are_refused_if_they_are_asked_for(tmp_path):
    """SOLO has no mask features of its own; and a config may leave the hooks to the runner."""
    file = tmp_path / 'solo.py'
    solo = ROOT / 'configs/compare/solo_r50_fpn_ms-3x_coco.py'
    file.write_text(f"_base_ = '{solo}'\ndefault_hooks = dict(_delete_=True)\n")
    (run,) = ablations.plan_runs(arguments(tmp_path, 'default', config=file, seeds=[0]))
    hook = Config.fromfile(run.config).default_hooks.checkpoint
    assert hook == dict(type='CheckpointHook', max_keep_ckpts=1)
    message = r'base\.py: the row features-separate does not fit this config: .*mask_neck'
    with pytest.raises(InputError, match=message):
        ablations.plan_runs(arguments(tmp_path, 'features-separate', config=file))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--epochs', '0'], "'0' is not a number of at least 1"),
        (['--jobs', '-1'], "'-1' is not a number"),
        (['--gpus', '2', '--jobs', '2'], '--jobs is for CPUs'),
    ],
)
def test_impossible_options_are_refused(options, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['reproduce_ablations.py', 'default', *options])
    with pytest.raises(SystemExit):
        ablations.parse_args()
    assert message in capsys.readouterr().err


def test_options_come_before_the_row(tmp_path):
    """Heads take the base's classes over: those of the options."""
    options = {'model.mask_head.num_classes': 3}
    args = arguments(tmp_path, 'heads-mask-rcnn', seeds=[0], cfg_options=options)
    (run,) = ablations.plan_runs(args)
    head = Config.fromfile(run.config).model.roi_head
    assert head.bbox_head.num_classes == head.mask_head.num_classes == 3
    with pytest.raises(InputError, match='--cfg-options .* do not fit'):
        ablations.plan_runs(arguments(tmp_path, 'default', cfg_options={'model.type.x': 1}))


# Runs


def test_rows_that_train_alike_share_their_training(tmp_path):
    rows = ('default', 'kernel-1x1x64', 'coords-none', 'nms-hard', 'min-mask-1')
    runs = ablations.plan_runs(arguments(tmp_path, *rows, seeds=[0]))
    assert {run.row: run.training.name for run in runs} == {
        'default': 'default-seed-0',
        'kernel-1x1x64': 'default-seed-0',  # the shapes model has 64 mask features
        'coords-none': 'coords-none-seed-0',
        'nms-hard': 'default-seed-0',
        'min-mask-1': 'default-seed-0',
    }
    assert len({run.config for run in runs}) == len({run.result for run in runs}) == 5
    config = Config.fromfile(runs[3].config)
    assert config.model.test_cfg.nms.type == 'mmsolov2.HardMaskNMS'
    assert config.custom_hooks == [dict(type='mmsolov2.NMSTimeHook')]


def test_names_of_trainings_do_not_depend_on_the_rows_that_are_chosen(tmp_path):
    alone = ablations.plan_runs(arguments(tmp_path, 'nms-hard', seeds=[0, 0]))
    together = ablations.plan_runs(arguments(tmp_path, 'default', 'nms-hard', seeds=[0]))
    assert len(alone) == 1 and alone[0] in together
    assert alone[0].training.name == 'default-seed-0'


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    ablations.plan_runs(arguments(tmp_path, 'default', epochs=4))
    ablations.plan_runs(arguments(tmp_path, 'default', 'nms', epochs=4))
    with pytest.raises(InputError, match=r'default\.py: .* for another config or schedule'):
        ablations.plan_runs(arguments(tmp_path, 'default', epochs=5))


def test_other_settings_are_refused_also_for_rows_that_share_the_training(tmp_path):
    """A model of five epochs must not be tested as one of six because another row trained it."""
    ablations.plan_runs(arguments(tmp_path, 'nms-hard', epochs=5))
    with pytest.raises(InputError, match=r'train/default\.py: .* for another config or schedule'):
        ablations.plan_runs(arguments(tmp_path, 'coords-both', epochs=6))
    ablations.plan_runs(arguments(tmp_path, 'coords-both', epochs=5))


@pytest.fixture
def tools(monkeypatch):
    """train.py and test.py that only leave their files; what was called, and what shall fail."""
    state = Namespace(calls=[], fails=set(), tested=[])

    def call(tool, config, args, options, folder):
        if tool == 'train':
            assert folder.name.startswith(config.stem)  # not with another row's prediction
        state.calls.append(f'{tool} {folder.name}')
        if state.calls[-1] in state.fails:
            raise InputError(f'{folder}: broken')
        folder.mkdir(parents=True, exist_ok=True)
        if tool == 'train':
            assert '--resume' in options  # from its own checkpoint, or a config's load_from
            (folder / 'epoch_1.pth').touch()
            return
        state.tested.append(options[0])
        (folder / 'now').mkdir()
        seed = int(folder.name[-1])
        figures = {f'coco/segm_{name}': 0.4 + 0.02 * seed for name in ablations.METRICS}
        figures |= {
            'coco/bbox_mAP': 0.3,
            'coco/segm_mAP_l': -1,
            'nms/milliseconds': 1 + seed,
            'nms/candidates': 30,
        }
        (folder / 'now' / 'now.json').write_text(json.dumps(figures))

    monkeypatch.setattr(ablations, 'call', call)
    monkeypatch.setattr(ablations, 'shared_cells', lambda config: 12.34)
    return state


def run(monkeypatch, args: Namespace) -> None:
    monkeypatch.setattr(ablations, 'parse_args', lambda: args)
    ablations.main()


@pytest.mark.parametrize(('own', 'used'), [(None, '3'), ('1', '1')])
def test_trainings_share_the_cpus_unless_the_user_says_how(own, used, monkeypatch, tmp_path):
    seen = []

    def finished(command, *, env, **kwargs):
        seen.append(env['OMP_NUM_THREADS'])
        return Mock(wait=lambda: 0)

    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if own:
        monkeypatch.setenv('OMP_NUM_THREADS', own)
    monkeypatch.setattr(ablations.os, 'cpu_count', lambda: 6)
    monkeypatch.setattr(ablations.subprocess, 'Popen', finished)
    ablations.call('train', tmp_path / 'config.py', arguments(tmp_path, jobs=2), [], tmp_path)
    assert seen == [used]


def test_results_are_kept_and_reported(tools, monkeypatch, tmp_path, capsys):
    run(monkeypatch, arguments(tmp_path, 'default', 'nms-hard'))
    assert sorted(tools.calls) == [
        'test default-seed-0', 'test default-seed-1', 'test nms-hard-seed-0',
        'test nms-hard-seed-1', 'train default-seed-0', 'train default-seed-1'
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert '2 trainings to do for 4 runs' in out and '[2/2] default-seed-' in out
    assert 'nms-hard, seed 1: mask AP 42.0' in out
    table = (tmp_path / 'out/ablations.md').read_text().splitlines()
    same = ' | '.join(['41.0 ± 1.4'] * 5)
    assert table[3] == f'| nms-hard | 2 | {same} | – | 30.0 ± 0.0 | 12.3 | 1.50 (30) | 36.3 | 9 |'
    assert (tmp_path / 'out/ablations.png').stat().st_size > 1000
    run(monkeypatch, arguments(tmp_path, 'default', 'nms-hard', 'nms-fast'))
    assert tools.calls[6:] == ['test nms-fast-seed-0', 'test nms-fast-seed-1']


def test_what_fails_does_not_stop_the_others(tools, monkeypatch, tmp_path, capsys):
    tools.fails = {'train default-seed-0', 'test coords-none-seed-1'}
    args = arguments(tmp_path, 'default', 'coords-none', jobs=1)
    with pytest.raises(SystemExit):
        run(monkeypatch, args)
    assert 'failed: coords-none-seed-1, default-seed-0; the rest is kept' in capsys.readouterr().err
    assert len(tools.calls) == 4 + 3
    table = (tmp_path / 'out/ablations.md').read_text()
    assert '| default | 1 |' in table and '| coords-none | 1 |' in table
    tools.fails, tools.calls = set(), []
    run(monkeypatch, args)
    assert tools.calls == [
        'train default-seed-0', 'test default-seed-0', 'test coords-none-seed-1'
    ]  # fmt: skip


def test_a_folder_that_was_moved_is_finished(tools, monkeypatch, tmp_path):
    folder = tmp_path / 'out/train/default-seed-0'
    folder.mkdir(parents=True)
    for name in ('epoch_5.pth', 'done'):
        (folder / name).touch()
    (folder / 'last_checkpoint').write_text('where/it/was/epoch_5.pth')
    run(monkeypatch, arguments(tmp_path, 'default', seeds=[0]))
    assert tools.calls == ['test default-seed-0']
    assert tools.tested == [str(folder / 'epoch_5.pth')]


def test_a_checkpoint_that_was_removed_is_missed(tools, monkeypatch, tmp_path, capsys):
    folder = tmp_path / 'out/train/default-seed-0'
    folder.mkdir(parents=True)
    (folder / 'done').touch()
    with pytest.raises(SystemExit):
        run(monkeypatch, arguments(tmp_path, 'default', seeds=[0]))
    assert f'{folder}: this training is done, but its checkpoint' in capsys.readouterr().out


def test_gpus_are_for_the_launcher():
    assert ablations.with_gpus('train', 2, ['--work-dir', 'x']) == [2, '--work-dir', 'x']
    assert ablations.with_gpus('test', 2, ['a.pth', '--work-dir']) == ['a.pth', 2, '--work-dir']


def test_several_processes_are_started_by_this_python(tmp_path):
    """The launcher's error is this project's: torch was found."""
    args = arguments(tmp_path, 'default', gpus=1)
    with pytest.raises(InputError, match=r'train\.log: train ended with .*there is no such config'):
        ablations.call('train', tmp_path / 'none.py', args, [], tmp_path / 'work')


def test_a_tool_that_fails_names_its_log(tmp_path):
    args = arguments(tmp_path, 'default')
    with pytest.raises(
        InputError, match=r'train\.log: train ended with status 2: error: .*none\.py'
    ):
        ablations.call('train', tmp_path / 'none.py', args, [], tmp_path / 'work')


# Figures


def test_shared_cells_of_data(tiny_config):
    config = Config.fromfile(tiny_config)
    init_default_scope('mmdet')
    shared = ablations.shared_cells(config)
    assert 0 < shared < 100
    config.model.mask_head.assigner.owner = 'last'
    assert ablations.shared_cells(config) == 0
    config.model.mask_head = ConfigDict(type='SOLOHead')
    assert math.isnan(ablations.shared_cells(config))


@pytest.mark.parametrize(
    ('values', 'text'),
    [([40.0], '40.0'), ([40.0, 42.0], '41.0 ± 1.4'), ([-100.0, -100.0], '–'), ([0.0], '0.0')],
)
def test_spread(values, text):
    assert ablations.spread(values) == text


def test_what_was_not_measured_is_no_number():
    figures = {f'coco/segm_{name}': 0.5 for name in ablations.METRICS} | {'coco/bbox_mAP': 0.5}
    row = ablations.table({'heads-solo': [{**figures, 'shared_cells': math.nan}]}).splitlines()[2]
    assert row == f'| heads-solo | 1 | {" | ".join(["50.0"] * 7)} | – | – | – | – |'


def test_where_nothing_was_found_ap_is_zero():
    assert ablations.percent({}, 'mAP') == 0
