"""Show what a model does on its validation data, in one HTML page.

    python tools/report.py CONFIG CHECKPOINT [--out report.html]

The page has AP by size and class, curves, the best threshold of scores, the confusion of classes,
errors of instances with pictures of them, the worst and best pictures, where the time goes, and a
table of all pictures. It is one file, which opens without network. It needs the package hotcoco:
``pip install 'mmsolov2[report]'``.
"""

from collections.abc import Sequence

from mmsolov2.apis import report
from mmsolov2.cli.arguments import tool_parser
from mmsolov2.cli.config import add_cfg_options
from mmsolov2.cli.errors import exit_with_message
from mmsolov2.cli.signals import stop_on_signals


def main(argv: Sequence[str] | None = None) -> None:
    parser = tool_parser(__doc__)
    text = 'config file, or the name of one that mmsolov2 ships'
    parser.add_argument('config', metavar='CONFIG', help=text)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='checkpoint file or address')
    parser.add_argument('--out', default='report.html', help='the page (default: %(default)s)')
    parser.add_argument('--device', default='auto', help='auto (default), cpu, cuda:0 ...')
    add_cfg_options(parser)
    args = vars(parser.parse_args(argv))
    stop_on_signals(within=5)
    with exit_with_message(args['config']):
        found = report(args.pop('config'), args.pop('checkpoint'), args.pop('out'), **args)
        masks, boxes = (found.ap[kind][0, 0] for kind in ('segm', 'bbox'))
        print(f'mask AP {masks:.3f}, box AP {boxes:.3f}, best threshold {found.best[0]:.2f}')


if __name__ == '__main__':
    main()
