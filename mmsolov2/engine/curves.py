"""Training curves as a picture, drawn anew after every validation."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import Runner

from mmsolov2.fileio import write_whole
from mmsolov2.registry import HOOKS

PLACES = 'curves/iter'  # the iterations of the validations, beside mmengine's own histories
POINTS = 200  # of a curve of losses, each the mean of as many iterations


@HOOKS.register_module()
class CurvesHook(Hook):
    """Keep ``curves.png`` in the work folder: losses by iteration, and mask and box AP.

    The histories are mmengine's, which checkpoints keep: a resumed training has all of them.
    """

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note where the validation is, and draw."""
        if metrics:
            runner.message_hub.update_scalar(PLACES, runner.iter)
        self.draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw what came after the last validation."""
        self.draw(runner)

    def draw(self, runner: Runner) -> None:
        """Write the picture."""
        if is_main_process():
            file = io.BytesIO()
            curves(runner.message_hub).savefig(file, format='png')
            write_whole(f'{runner.work_dir}/curves.png', file.getvalue())


def curves(hub: MessageHub) -> Figure:
    """A picture of the losses and the AP in the histories of a training."""
    figure = Figure((10, 4), dpi=100, layout='tight')
    losses, figures = figure.subplots(1, 2)
    history = hub.log_scalars
    for name in sorted(name for name in history if name.startswith('train/loss')):
        values = values_of(history[name])
        size = max(-(-len(values) // POINTS), 1)
        parts = np.split(values, range(size, len(values), size))
        places = np.cumsum([len(part) for part in parts])
        means = np.array([part.mean() for part in parts])
        draw_curve(losses, places, means, name.removeprefix('train/'))
    for kind, label in dict(segm='mask AP', bbox='box AP').items():
        name = f'val/coco/{kind}_mAP'
        if name in history and PLACES in history:
            values, places = values_of(history[name]), values_of(history[PLACES])
            shown = min(len(values), len(places))  # of a training begun without this hook
            draw_curve(figures, places[-shown:], values[-shown:], label, 'o-')
    losses.set(title='losses', xlabel='iteration', ylim=(0, None))
    figures.set(title='validation', xlabel='iteration', ylim=(0, 1))
    for axes in (losses, figures):
        axes.grid(alpha=0.4)
        if axes.lines:
            axes.legend()
    return figure


def values_of(history: HistoryBuffer) -> np.ndarray:
    """All values of a history (n,)."""
    return np.asarray(history.data[0])


def draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, style: str = '-') -> None:
    """Draw values (n,) over iterations (n,), the last value in the legend."""
    axes.plot(x, y, style, label=f'{label} {y[-1]:.3g}', markersize=4)
