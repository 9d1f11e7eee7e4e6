"""Train a model of your own labelled pictures, with one command: ``python tools/fit.py DATA``.

DATA is a folder, or a COCO file, in any layout of docs/data.md: COCO, exports of Roboflow, CVAT and
Label Studio, YOLO-seg, labelme, pictures with mask PNGs. What is found, chosen and expected is
told before the training, which a second call goes on with. Below --out are

- ``NAME.py``: the config, to read, edit, inherit, and to run with tools/train.py,
- ``train/``: logs, curves and checkpoints; the best one is ``best_….pth``,
- ``test/``: the figures of the best checkpoint on the validation pictures,
- ``predictions/``: overlays of validation pictures,
- ``report.html``: what the model does and gets wrong, if ``mmsolov2[report]`` is installed.
"""

import argparse
from collections.abc import Sequence

from mmsolov2.apis.fit import fit
from mmsolov2.cli.arguments import at_least, tool_parser
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.signals import stop_on_signals


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = tool_parser(__doc__)
    parser.add_argument('data', metavar='DATA', help='folder with pictures and labels')
    text = 'folder for config, training and results (default: work_dirs/NAME of the data)'
    parser.add_argument('--out', help=text)
    text = 'effl0, r18, r50, or a config whose model is taken (default: effl0 if its weights are '
    parser.add_argument('--model', help=f'{text}installed, else r18)')
    text = "weights of a whole model to start from: file, address, published (COCO's), or none"
    parser.add_argument('--weights', help=text)
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--epochs', type=at_least(1), help='epochs to train')
    length.add_argument('--minutes', type=float, help='minutes to train')
    text = 'name of the class where the data have no names, as with mask PNGs'
    parser.add_argument('--classes', nargs='+', help=text)
    text = 'share of pictures to validate on where the data are not split (default: %(default)s)'
    parser.add_argument('--val-share', type=float, default=0.2, help=text)
    parser.add_argument('--seed', type=int, default=0, help='of the split and of the training')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = vars(parse_args(argv))
    stop_on_signals(within=5)
    with exit_with_message(args['data']):
        fit(args.pop('data'), args.pop('out'), **args)


if __name__ == '__main__':
    main()
