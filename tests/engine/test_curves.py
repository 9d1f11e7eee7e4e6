"""The picture of a training: what is drawn where."""

from types import SimpleNamespace

import cv2
import numpy as np
from mmengine.logging import MessageHub

from mmsolov2.engine.curves import CurvesHook, curves


def trained(name: str, iterations: int) -> MessageHub:
    """The histories of a training whose loss falls from 2 to 1."""
    hub = MessageHub(name)
    for value in np.linspace(2, 1, iterations):
        hub.update_scalar('train/loss', value)
        hub.update_scalar('train/lr', 0.1)
    return hub


def validated(tmp_path, hub: MessageHub, *values: float) -> CurvesHook:
    """The hook, after validations at iterations 10, 20 ..."""
    hook = CurvesHook()
    for number, value in enumerate(values, 1):
        hub.update_scalar('val/coco/segm_mAP', value)
        runner = SimpleNamespace(message_hub=hub, iter=10 * number, work_dir=str(tmp_path))
        hook.after_val_epoch(runner, {'coco/segm_mAP': value})
    return hook


def test_curves(tmp_path):
    hub = trained('curves', 1000)
    validated(tmp_path, hub, 0.25, 0.5)
    losses, figures = curves(hub).axes
    (loss,) = losses.lines
    assert loss.get_label() == 'loss 1'
    assert len(loss.get_xdata()) == 200
    assert loss.get_xdata()[[0, -1]].tolist() == [5, 1000]
    assert abs(loss.get_ydata()[0] - np.linspace(2, 1, 1000)[:5].mean()) < 1e-9
    (ap,) = figures.lines
    assert (ap.get_xdata().tolist(), ap.get_ydata().tolist()) == ([10, 20], [0.25, 0.5])
    assert cv2.imread(str(tmp_path / 'curves.png')).shape == (400, 1000, 3)


def test_few_iterations_are_all_drawn():
    (loss,) = curves(trained('few', 3)).axes[0].lines
    assert loss.get_xdata().tolist() == [1, 2, 3]
    assert loss.get_ydata().tolist() == [2, 1.5, 1]


def test_nothing_was_learnt_or_found_yet(tmp_path):
    hub = MessageHub('nothing')
    CurvesHook().after_train(SimpleNamespace(message_hub=hub, iter=0, work_dir=str(tmp_path)))
    assert not any(axes.lines for axes in curves(hub).axes)
    assert (tmp_path / 'curves.png').is_file()


def test_a_training_that_began_without_the_hook(tmp_path):
    hub = trained('resumed', 30)
    hub.update_scalar('val/coco/segm_mAP', 0.1)
    validated(tmp_path, hub, 0.2)
    (ap,) = curves(hub).axes[1].lines
    assert (ap.get_xdata().tolist(), ap.get_ydata().tolist()) == ([10], [0.2])


def test_points_are_as_far_from_each_other():
    (loss,) = curves(trained('odd', 336)).axes[0].lines
    assert set(np.diff(loss.get_xdata())) == {2}
