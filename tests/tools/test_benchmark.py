"""Made inputs, equal results, and files of every subcommand; no time is asserted."""

import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.structures import InstanceData

from mmsolov2.errors import InputError
from mmsolov2.models.decode.points_nms import points_nms
from mmsolov2.models.solov2 import SOLOv2
from mmsolov2.models.solov2_head import flatten_cells

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'tools'))
import benchmark  # noqa: E402
from benchmarks import inputs, measure, report  # noqa: E402
from benchmarks.compare import differing_pixels, encoded, rounded_pixels  # noqa: E402

sys.path.pop(0)

GRIDS = (40, 36, 24, 16, 12)
SMALL = ('--config', 'solov2-light_r18_fpn_ms-3x_coco', '--device', 'cpu', '--repeats', '1')
SMALL += ('--warmup', '0', '--size', '64x96')


def made(count, num_classes=80, size=(50, 68), **settings):
    return inputs.made_image(
        count, num_classes=num_classes, num_grids=GRIDS, channels=128, size=size, **settings
    )


def start(tmp_path, command, *options):
    """Run a subcommand in this process: how many cases differ, and its JSON."""
    words = (command, *SMALL, '--no-memory', '--out', str(tmp_path), *options)
    args = benchmark.parse_args(words)
    threads = torch.get_num_threads()
    try:
        wrong = benchmark.start(args)
    finally:
        torch.set_num_threads(threads)
    return wrong, json.loads((tmp_path / f'{command}.json').read_text())


# Made inputs


@pytest.mark.parametrize(
    ('count', 'num_classes'), [(0, 80), (1, 80), (100, 80), (2000, 1), (3872, 3), (5000, 3)]
)
def test_as_many_pairs_as_asked_for_pass_the_point_nms(count, num_classes):
    outputs = made(count, num_classes)
    scores = flatten_cells([points_nms(level.sigmoid()) for level in outputs.logits])[0]
    passed = scores > 0.1
    assert passed.sum() == count
    assert passed.any(1).sum() == min(count, 3872)
    assert not count or 0.1 < scores[passed].min() <= scores[passed].max() < 0.951


def test_compact_masks_cover_1_to_5_percent_and_overlap():
    scores, labels, kernels, masks = inputs.candidates_of(made(100, size=(200, 272)))
    assert len(scores) == len(labels) == len(kernels) == 100
    share = masks.flatten(1).float().mean(1)
    assert share.min() >= 0.01 and share.max() <= 0.05
    flat = masks.flatten(1).float()
    overlaps = (flat @ flat.T > 0.7 * flat.sum(1)) & (labels[:, None] == labels)
    assert overlaps.sum(1).float().mean() > 5


def test_speckled_masks_cover_half_of_everything():
    masks = inputs.candidates_of(made(30, masks='speckled'))[3]
    assert (masks.flatten(1).float().mean(1) - 0.5).abs().max() < 0.1
    assert (masks.any(1).float().mean(), masks.any(2).float().mean()) == (1, 1)


def test_images_of_a_batch_differ():
    batch = inputs.made_batch(
        9, 2, num_classes=3, num_grids=GRIDS, channels=128, size=(16, 24), masks='compact'
    )
    assert batch.features.shape == (2, 128, 16, 24)
    assert not torch.equal(*batch.logits[0])


def test_more_candidates_than_cells_and_classes_are_refused():
    with pytest.raises(InputError, match='3872 cells and 1 classes have 3872'):
        made(3873, 1)


# Comparing and measuring


def result(*masks, scores=None, labels=None):
    count = len(masks)
    scores = torch.linspace(0.9, 0.1, count) if scores is None else torch.tensor(scores)
    labels = torch.zeros(count, dtype=torch.long) if labels is None else torch.tensor(labels)
    return encoded([InstanceData(masks=torch.stack(masks), scores=scores, labels=labels)])


def test_differing_pixels_are_counted():
    one, other = torch.zeros(2, 6, 8, dtype=torch.bool)
    one[:2, :3] = True
    other[:2, :5] = True
    same = result(one, other)
    assert differing_pixels(same, same) == 0
    assert differing_pixels(same, result(one, one)) == 4
    assert differing_pixels(same, result(one)) == 10
    assert differing_pixels(same, result(one, other, labels=[0, 1])) == 20
    assert differing_pixels(same, result(one, other, scores=[0.9, 0.2])) == 20
    tied = [0.9, 0.9 + 1e-6]
    assert differing_pixels(result(one, other, scores=tied), result(other, one, scores=tied)) == 0


def test_a_pixel_of_a_million_may_differ():
    mask = torch.zeros(1000, 1000, dtype=torch.bool)
    assert rounded_pixels(result(mask, mask)) == 2
    assert rounded_pixels(result(mask[:, :999])) == 0


def test_runs_take_turns():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in 'abc'}
    found = measure.by_turns(runs, device=torch.device('cpu'), repeats=2, warmup=1)
    assert order == list('abcbcacab')
    assert {name: len(values) for name, values in found.items()} == dict(a=2, b=2, c=2)


@pytest.mark.skipif(not measure.CLEAR.exists(), reason='memory is measured on Linux only')
def test_peak_memory_is_what_a_run_takes():
    taken = measure.peak_memory(lambda: torch.ones(25_000_000).sum(), torch.device('cpu'))
    assert 99e6 < taken < 110e6


# Subcommands


def test_postprocess_and_predict_agree_with_mmdet(tmp_path):
    options = ('--candidates', '40', '--size', '160x224')
    wrong, content = start(tmp_path, 'postprocess', '--classes', '2', '80', *options)
    assert not wrong and len(content['cases']) == 4  # two kinds of masks
    for case in content['cases']:
        assert case['differing'] == 0 and not case['memory']
        assert {len(values) for values in case['seconds'].values()} == {1}
    wrong, content = start(tmp_path, 'predict', '--candidates', '5', '--batch-size', '2')
    assert not wrong and set(content['cases'][0]['seconds']) == {'mmdet', 'ours', 'floor'}
    assert [case['case']['option'] for case in content['cases']] == ['none', 'channels-last']
    assert content['machine']['torch'] and content['settings']['batch_size'] == '2'


def test_other_results_are_an_error(tmp_path):
    other = ('--cfg-options', 'model.test_cfg.max_per_img=3')
    options = ('--candidates', '20', '--classes', '2', '--masks', 'compact')
    wrong, content = start(tmp_path, 'postprocess', *options, *other)
    assert wrong == 1 and content['cases'][0]['differing'] > 0


def test_options_of_the_network_reach_it(tmp_path, monkeypatch):
    dtypes, network = [], SOLOv2.network

    def watched(self, images):
        outputs = network(self, images)
        dtypes.append((self.channels_last, outputs[-1].dtype))
        return outputs

    monkeypatch.setattr(SOLOv2, 'network', watched)
    start(tmp_path, 'predict', '--candidates', '2', '--option', 'channels-last')
    assert set(dtypes) == {(True, torch.float32)} and len(dtypes) >= 2  # ours and the floor
    dtypes.clear()
    start(tmp_path, 'network', '--option', 'channels-last', 'bfloat16')
    plain = (False, torch.float32)
    assert dtypes == [(True, torch.float32), plain, (False, torch.bfloat16), plain]
    assert '| channels-last |' in (tmp_path / 'network.md').read_text()


def test_half_precision_is_no_error(tmp_path, capsys):
    wrong, content = start(tmp_path, 'predict', '--candidates', '30', '--option', 'bfloat16')
    assert not wrong and content['cases'][0]['differing'] > content['cases'][0]['rounding']
    with pytest.raises(SystemExit):
        benchmark.parse_args(['network', '--amp', 'bf16'])
    assert 'unrecognized arguments: --amp' in capsys.readouterr().err


@pytest.mark.parametrize('command, axis', [('evaluate', 'images'), ('postprocess', 'classes')])
def test_none_of_what_there_must_be_is_refused(command, axis, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args([command, f'--{axis}', '0'])
    assert f"argument --{axis}: '0' is not a number of at least 1" in capsys.readouterr().err


def test_nms_agrees_with_mmdet(tmp_path):
    wrong, content = start(tmp_path, 'nms', '--candidates', '20', '--classes', '2')
    assert not wrong
    both = [case['case']['strategy'] for case in content['cases'] if 'mmdet' in case['seconds']]
    assert both == ['matrix', 'matrix-linear']


def test_what_does_not_fit_is_said_instead_of_tried(tmp_path):
    options = ('--candidates', '7', '--classes', '2', '--masks', 'compact')
    _, content = start(tmp_path, 'postprocess', *options, '--memory-limit', '0.0001')
    (case,) = content['cases']
    assert 'mmdet' not in case['seconds'] and 'mmdet would need 0.0 GB' in case['notes'][0]


def test_evaluate_agrees_with_mmdet(tmp_path):
    options = ('--images', '2', '--instances', '6', '--classes', '2', '--backend', 'pycocotools')
    wrong, content = start(tmp_path, 'evaluate', *options)
    assert not wrong and [case['differing'] for case in content['cases']] == [0, 0]


def test_reading_agrees_with_mmdet(tmp_path):
    options = ('--images', '9', '--annotations', '250', '--classes', '3', '--repeats', '2')
    wrong, content = start(tmp_path, 'read', *options)
    (case,) = content['cases']
    assert not wrong and case['differing'] == 0 and len(case['seconds']['ours']) == 2


def test_targets_agree_with_mmdet(tmp_path):
    wrong, content = start(tmp_path, 'targets', '--instances', '1', '9', '--size', '160x224')
    assert not wrong and [case['differing'] for case in content['cases']] == [0, 0]


def test_losses_agree_with_mmdet(tmp_path):
    wrong, content = start(tmp_path, 'loss-memory', '--positives', '8', '--size', '160x224')
    assert not wrong and content['cases'][0]['differing'] == 0


def test_steps_agree_with_mmdet_and_have_a_floor(tmp_path):
    wrong, content = start(tmp_path, 'step', '--instances', '3')
    (case,) = content['cases']
    assert not wrong and case['differing'] == 0
    assert list(case['seconds']) == ['mmdet', 'ours', 'floor', 'mmdet loss', 'our loss']
    assert '| our loss / floor |' in (tmp_path / 'step.md').read_text()


def test_plus_is_measured_beside_the_same_model_without(tmp_path):
    wrong, content = start(tmp_path, 'plus', '--candidates', '3', '--instances', '2')
    parts = ['step', 'prediction', 'post-processing']
    assert not wrong and [case['case']['part'] for case in content['cases']] == parts
    assert all(case['seconds'].keys() == {'ours', 'floor'} for case in content['cases'])
    assert '| ours over floor |' in (tmp_path / 'plus.md').read_text()
    args = benchmark.parse_args(['plus', '--config', 'other'])
    with pytest.raises(InputError, match='other: there is no plus of it, only of solov2_r50'):
        benchmark.plus_runs(args, dict(part='step'))


GPU = ('--device', 'cpu', '--models', 'solov2-light_r18_fpn_ms-3x_coco:64x96', '--batch', '2')
GPU += ('--candidates', '3', '5', '--instances', '2', '--repeats', '1', '--warmup', '0')


def start_gpu(tmp_path, *options):
    """Run the set in this process: how much went wrong, and its JSON by their names."""
    words = ('gpu', *GPU, '--no-memory', '--out', str(tmp_path), *options)
    threads = torch.get_num_threads()
    try:
        wrong = benchmark.run_gpu(benchmark.parse_args(words))
    finally:
        torch.set_num_threads(threads)
    return wrong, {file.stem: json.loads(file.read_text()) for file in tmp_path.glob('*.json')}


def test_what_a_gpu_is_asked_first_runs_on_a_cpu(tmp_path):
    wrong, files = start_gpu(tmp_path, '--precision', 'fp32')
    assert not wrong and sorted(files) == ['nms', 'postprocess', 'predict', 'step']
    assert [case['case']['candidates'] for case in files['nms']['cases']] == [5]
    assert [case['case']['candidates'] for case in files['postprocess']['cases']] == [3, 5]
    for name in ('predict', 'step'):
        (case,) = files[name]['cases']
        assert case['case']['size'] == '64x96' and case['case']['batch'] == 2
        assert case['differing'] == 0 and {'mmdet', 'ours', 'floor'} <= case['seconds'].keys()
        head = (tmp_path / f'{name}.md').read_text().splitlines()[0]
        assert '| config | size | batch | precision |' in head and '| ours, images/s |' in head


def test_the_parts_of_a_gpu_get_larger():
    """Two without a network; then each of two models in three precisions, predicting, training."""
    args = benchmark.parse_args(['gpu', '--instances', '7'])
    parts = list(benchmark.gpu_parts(args))
    assert [words[0] for _, words in parts] == ['nms', 'postprocess'] + 2 * (
        ['predict'] * 6 + ['step'] * 6
    )
    assert [shown['batch'] for shown, _ in parts[2:]] == [1] * 12 + [16] * 12
    assert [shown['precision'] for shown, _ in parts[2:8]] == 2 * ['fp32', 'tf32', 'bf16']
    shown, words = parts[-1]
    assert shown == dict(config=benchmark.LIGHT, size='448x768', batch=16, precision='bf16')
    last = benchmark.parse_args(words)
    assert (last.batch_size, last.amp, last.tf32, last.instances) == (16, 'bf16', False, [7])
    tf32 = benchmark.parse_args(parts[3][1])
    assert (tf32.size, tf32.amp, tf32.tf32, tf32.candidates) == ('800x1344', None, True, [100])


def test_a_part_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    small = ['nms', '--config', 'solov2-light_r18_fpn_ms-3x_coco', '--candidates', '3']
    parts = [({}, [*small, '--size', 'wide']), ({}, [*small, '--size', '64x96'])]
    monkeypatch.setattr(benchmark, 'gpu_parts', lambda args: parts)
    wrong, files = start_gpu(tmp_path)
    assert wrong == 1 and len(files['nms']['cases']) == len(benchmark.STRATEGIES)
    assert "a size is HxW, as 480x640, not 'wide'" in capsys.readouterr().err


def test_what_does_not_fit_into_the_time_is_skipped(tmp_path, capsys):
    wrong, files = start_gpu(tmp_path, '--seconds', '0', '--precision', 'fp32')
    assert not wrong and not files
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(' are left: ')[2].split()[0] for line in lines] == [
        'nms',
        'postprocess',
        'predict',
        'step',
    ]


def test_where_mmdet_fails_ours_is_measured(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried\nto')

    monkeypatch.setattr('mmdet.models.dense_heads.SOLOV2Head.predict_by_feat', fails)
    options = ('--candidates', '4', '--classes', '2', '--masks', 'compact')
    wrong, content = start(tmp_path, 'postprocess', *options)
    (case,) = content['cases']
    assert not wrong and case['seconds'].keys() == {'ours', 'floor'}
    assert case['notes'] == ['mmdet failed: CUDA out of memory. Tried']


@pytest.mark.cuda
def test_a_gpu_has_a_name_waits_and_memory(tmp_path):
    wrong, files = start_gpu(tmp_path, '--device', 'cuda', '--precision', 'fp32')
    assert not wrong
    for name in ('predict', 'step'):
        content = files[name]
        assert content['machine']['device'] == torch.cuda.get_device_name()
        (case,) = content['cases']
        assert 0 < case['waits']['ours'] < case['waits']['mmdet']


def test_waits_are_columns_and_a_card_is_in_the_head(tmp_path):
    case = dict(case=dict(batch=4), seconds=dict(ours=[0.5]), memory={}, notes=[])
    case['waits'] = dict(mmdet=90, ours=3)
    content = dict(subcommand='step', help='a step', floor='', overhead=False, cases=[case])
    content['machine'] = dict(device='Card X', command='benchmark.py gpu')
    (tmp_path / 'step.json').write_text(json.dumps(content))
    report.write_page([tmp_path], tmp_path / 'page.md')
    page = (tmp_path / 'page.md').read_text()
    assert '## step on Card X: a step' in page and 'Not measured yet' not in page
    assert '| batch | ours, ms | ours, images/s | mmdet waits | ours waits |' in page
    assert '| 4 | 500 (500–500) | 8.00 | 90 | 3 |' in page


def test_files_and_the_page_made_of_them(run_python, tmp_path):
    script, out, page = ROOT / 'tools/benchmark.py', tmp_path / 'cpu', tmp_path / 'page.md'
    options = ('--candidates', 3, '--stage', 'post-processing', '--image', '64x96')
    run_python(script, 'memory', *SMALL, *options, '--format', 'rle', '--out', out)
    content = json.loads((out / 'memory.json').read_text())
    (case,) = content['cases']
    assert case['differing'] == 0 and set(case['seconds']) == {'mmdet', 'ours', 'floor'}
    if measure.CLEAR.exists():
        assert case['memory']['mmdet'] > 0
    assert sorted(file.name for file in out.iterdir()) == ['memory.json', 'memory.md']
    run_python(script, 'report', '--out', out, '--page', page)
    assert (out / 'memory.md').read_text().strip() in page.read_text()
    assert 'png' not in page.read_text()  # nothing grows along one case
    larger = {**case, 'case': {**case['case'], 'image': '640x960'}}
    (out / 'memory.json').write_text(json.dumps({**content, 'cases': [case, larger]}))
    report.write_page([out], page)
    assert '![memory](page-cpu-memory.png)' in page.read_text()
    assert (tmp_path / 'page-cpu-memory.png').stat().st_size > 5000


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('postprocess', '--size', '64'), 'a size is HxW'),
        (
            ('postprocess', '--config', 'solov2-light_r50-dcn_fpn_ms-3x_768x448_coco'),
            'mmdet has no',
        ),
        (('nms', '--candidates', '9999', '--classes', '1'), '9999 candidates cannot be made'),
    ],
)
def test_bad_arguments_are_said(tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        start(tmp_path, *words)


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, 'run_bench', lambda *args: pytest.fail('it was measured'))
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='file/out: no such folder can be made'):
        start(tmp_path / 'file/out', 'nms')


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match='there are no results here'):
        report.write_page([tmp_path], tmp_path / 'page.md')
