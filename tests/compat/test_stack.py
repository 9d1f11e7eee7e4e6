"""The stack made to work: stand-ins, safe types and the table of config packages."""

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmsolov2
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.compat import stack as compat
from mmsolov2.errors import MissingOpError

LITE = not compat.has_compiled_ops()
needs_lite = pytest.mark.skipif(not LITE, reason='mmcv has its compiled operators')


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    """A script in a Python of its own."""
    command = [sys.executable, '-c', script, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


# mmcv's operators


def test_stand_in_names_the_operator_and_the_remedy():
    stand_in = compat.MissingOps('mmcv._ext')
    operator = stand_in.some_operator  # mmcv takes it on import
    with pytest.raises(MissingOpError) as caught:
        operator(1, key=2)
    message = str(caught.value)
    assert "'some_operator' is needed" in message
    assert 'install mmcv>=2.0.0rc4,<2.2' in message and 'choose layers without it' in message


def test_stand_in_has_no_special_attributes():
    assert not hasattr(compat.MissingOps('mmcv._ext'), '__path__')


@needs_lite
def test_operator_of_mmcv_raises():
    from mmcv.ops import roi_align

    boxes = torch.tensor([[0, 0, 0, 4, 4.0]])
    with pytest.raises(MissingOpError, match="'roi_align_forward'"):
        roi_align(torch.ones(1, 1, 8, 8), boxes, (2, 2))


def test_message_names_the_config(capsys):
    with pytest.raises(SystemExit) as stop, exit_with_message('configs/my_config.py'):
        compat.MissingOps('mmcv._ext').some_operator()
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: configs/my_config.py: mmcv's compiled operator 'some_operator'")
    assert error.count('\n') == 1


def test_has_compiled_ops(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmcv._ext', compat.MissingOps('mmcv._ext'))
    assert not compat.has_compiled_ops()
    monkeypatch.setitem(sys.modules, 'mmcv._ext', torch)  # any real module
    assert compat.has_compiled_ops()
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert not compat.has_compiled_ops()
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: torch.__spec__)
    assert compat.has_compiled_ops()


WITH_OPERATORS = """
import sys
import mmcv
mmcv.__path__.append(sys.argv[1])
import mmsolov2
from mmdet.models.losses import focal_loss
assert mmsolov2.compat.stack.has_compiled_ops()
assert not isinstance(sys.modules['mmcv._ext'], mmsolov2.compat.stack.MissingOps)
assert sys.modules['mmcv._ext'].MINE
assert focal_loss.sigmoid_focal_loss.__module__ == focal_loss.__name__
print('stood aside')
"""


@needs_lite
def test_stands_aside_for_compiled_operators(tmp_path):
    (tmp_path / '_ext.py').write_text('MINE = True\ndef __getattr__(name): return print\n')
    done = run(WITH_OPERATORS, str(tmp_path))
    assert done.stdout.splitlines()[-1:] == ['stood aside'], done.stderr


WITHOUT_MMCV = """
import sys
from importlib.machinery import PathFinder


class Hider(PathFinder):

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == 'mmcv' else super().find_spec(name, path, target)


sys.meta_path[:] = [Hider if finder is PathFinder else finder for finder in sys.meta_path]
import mmsolov2
"""


def test_without_mmcv():
    error = run(WITHOUT_MMCV).stderr.strip().splitlines()[-1]
    assert error.startswith('ImportError: mmsolov2 needs mmcv or mmcv-lite, >=2.0.0rc4 and <2.2')
    assert "pip install 'mmcv-lite>=2.0.0rc4,<2.2'" in error


# The focal loss


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('count', [0, 1, 50])
def test_focal_loss_equals_mmdets(count, reduction, monkeypatch):
    """Ours stands in for the CUDA operator; mmdet's own is what it does on a CPU."""
    from mmdet.models.losses import focal_loss
    from mmdet.models.losses.focal_loss import FocalLoss

    monkeypatch.setattr(focal_loss, 'sigmoid_focal_loss', None)
    compat.focal_loss_without_ops()
    logits = 4 * torch.randn(count, 5)
    labels = torch.randint(0, 6, (count,))  # 5 is the background
    results = []
    for calculate in (focal_loss.sigmoid_focal_loss, None):
        ours = logits.clone().requires_grad_()
        if calculate:
            loss = calculate(ours, labels, gamma=1.5, alpha=0.3, reduction=reduction)
        else:
            loss = FocalLoss(gamma=1.5, alpha=0.3, reduction=reduction)(ours, labels)
        loss.sum().backward()
        results.append((loss.detach(), ours.grad))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert torch.allclose(ours, theirs, equal_nan=True)
    assert torch.allclose(our_gradient, their_gradient)


@needs_lite
def test_focal_loss_by_hand():
    """A logit of 0 has probability 1/2: alpha or 1 - alpha, times 1/4, times ln 2."""
    from mmdet.models.losses import focal_loss

    labels = torch.tensor([0, 2])  # the second is the background
    loss = focal_loss.sigmoid_focal_loss(torch.zeros(2, 2), labels, reduction='none')
    ln2 = torch.log(torch.tensor(2.0))
    assert torch.allclose(loss, torch.tensor([[0.25, 0.75], [0.75, 0.75]]) / 4 * ln2)


# Import


def test_config_package_is_named():
    from mmengine.config.utils import MODULE2PACKAGE

    assert MODULE2PACKAGE['mmsolov2'] == 'mmsolov2'


def test_import_and_apply_twice():
    before = sys.modules.get('mmcv._ext')
    assert importlib.import_module('mmsolov2') is mmsolov2
    compat.apply()
    compat.apply()
    assert sys.modules.get('mmcv._ext') is before
    assert compat.has_compiled_ops() is not LITE


def test_package_has_a_version():
    assert mmsolov2.__version__.count('.') == 2
    assert Path(mmsolov2.__file__).parent.name == 'mmsolov2'
