"""Parameters and multiply-adds of the shipped models, mmdet's beside ours, as a Markdown table.

    python tools/model_costs.py [CONFIG ...]

Nothing is computed: the models run on tensors without values. It takes seconds, and no memory.
"""

from pathlib import Path

import mmdet
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmsolov2.apis import model_costs, tested_size
from mmsolov2.cli.arguments import tool_parser
from mmsolov2.cli.config import CONFIG_FOLDERS, find_config, open_config
from mmsolov2.cli.errors import error_context, exit_with_message
from mmsolov2.cli.tables import markdown_table

THEIRS = Path(mmdet.__file__).parent / '.mim' / 'configs'
OTHER_NAMES = {  # of models that mmdet names otherwise
    'solov2-light_r50-dcn_fpn_ms-3x_768x448_coco': 'solov2-light_r50-dcn_fpn_ms-3x_coco',
    'solov2-light_r50-dcn_fpn_ms-3x_coco': None,  # mmdet has none with version 1
    'solo_r50_fpn_ms-3x_coco': 'solo_r50_fpn_3x_coco',
    'decoupled-solo_r50_fpn_ms-3x_coco': 'decoupled-solo_r50_fpn_3x_coco',
}


def mmdets(name: str) -> Config | None:
    """Mmdet's config of a model, if it has one."""
    files = list(THEIRS.glob(f'solo*/{OTHER_NAMES.get(name, name)}.py'))
    return Config.fromfile(files[0]) if files else None


def row(file: Path) -> list[str]:
    """Name, input, and the costs of a config, ours and mmdet's."""
    config, theirs = open_config(file), mmdets(file.stem)
    with error_context(file):
        size = tested_size(config)
        ours = model_costs(config, size)
        others = model_costs(theirs, size) if theirs else (None, None)
    values = (value for pair in zip(ours, others, strict=True) for value in pair)
    cells = [f'{value:.2f}' if value else '–' for value in values]
    return [f'`{file.stem}`', f'{size[1]}x{size[0]}', *cells]


def main() -> None:
    parser = tool_parser(__doc__)
    parser.add_argument('configs', nargs='*', help='configs; the default is all of configs/solov2')
    args = parser.parse_args()
    init_default_scope('mmdet')
    with exit_with_message('model_costs.py'):
        root = next(filter(Path.is_dir, CONFIG_FOLDERS))
        files = [find_config(name) for name in args.configs] or sorted(root.glob('solov2/*.py'))
        head = ['config', 'input', 'parameters, M', "mmdet's", 'multiply-adds, G', "mmdet's"]
        print(markdown_table(head, map(row, files)), end='')


if __name__ == '__main__':
    main()
