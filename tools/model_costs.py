"""Parameters and multiply-adds of the shipped models, mmdet's beside ours, as a Markdown table.

    python tools/model_costs.py [CONFIG ...]

Nothing is computed: the models run on tensors without values. It takes seconds, and no memory.
"""

from pathlib import Path

import mmdet
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmsolov2.cli.arguments import tool_parser
from mmsolov2.cli.config import CONFIG_FOLDERS, dataset_of, find_config, open_config
from mmsolov2.cli.errors import error_context, exit_with_message
from mmsolov2.cli.tables import markdown_table
from mmsolov2.errors import InputError
from mmsolov2.registry import MODELS

THEIRS = Path(mmdet.__file__).parent / '.mim' / 'configs'
OTHER_NAMES = {  # of models that mmdet names otherwise
    'solov2-light_r50-dcn_fpn_ms-3x_768x448_coco': 'solov2-light_r50-dcn_fpn_ms-3x_coco',
    'solov2-light_r50-dcn_fpn_ms-3x_coco': None,  # mmdet has none with version 1
    'solo_r50_fpn_ms-3x_coco': 'solo_r50_fpn_3x_coco',
    'decoupled-solo_r50_fpn_ms-3x_coco': 'decoupled-solo_r50_fpn_3x_coco',
}


def without_values(config: Config) -> nn.Module:
    """The model of a config on torch's meta device: shapes alone."""
    settings = Config(config.model.to_dict())
    for part in settings.values():
        if isinstance(part, dict) and 'init_cfg' in part:
            part.init_cfg = None
    with torch.device('meta'):
        return MODELS.build(settings._cfg_dict).eval()


def test_size(config: Config) -> tuple[int, int]:
    """Height and width of a padded network input of the config's test pipeline."""
    (scale,) = (step.scale for step in dataset_of(config, 'test').pipeline if 'scale' in step)
    divisor = config.model.data_preprocessor.pad_size_divisor
    width, height = (-(-side // divisor) * divisor for side in scale)
    return height, width


def costs(config: Config, size: tuple[int, int]) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds of the network on one image of a size.

    What follows the network is left out.

    Raises:
        InputError: if the model is of another kind than SOLO and SOLOv2.
    """
    if 'mask_head' not in config.model:
        raise InputError(
            f'{config.filename}: its model has no mask_head; only SOLO and SOLOv2 are counted'
        )
    model = without_values(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = model.extract_feat(torch.empty(1, 3, *size, device='meta'))
        model.mask_head(features)
        if hasattr(model, 'mask_neck'):
            model.mask_neck(features)
    parameters = sum(one.numel() for one in model.parameters())
    return parameters / 1e6, counter.get_total_flops() / 2e9


def mmdets(name: str) -> Config | None:
    """Mmdet's config of a model, if it has one."""
    files = list(THEIRS.glob(f'solo*/{OTHER_NAMES.get(name, name)}.py'))
    return Config.fromfile(files[0]) if files else None


def row(file: Path) -> list[str]:
    """Name, input, and the costs of a config, ours and mmdet's."""
    config, theirs = open_config(file), mmdets(file.stem)
    with error_context(file):
        size = test_size(config)
        ours, others = costs(config, size), costs(theirs, size) if theirs else (None, None)
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
