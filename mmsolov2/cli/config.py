"""Finding and reading configs, and what is said of those that are wrong."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmsolov2.cli.errors import PACKAGE, error_context
from mmsolov2.cli.options import OptionsAction
from mmsolov2.errors import InputError

CONFIG_FOLDERS = (PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs')  # wheel, checkout


def find_config(name: str | Path) -> Path:
    """The path of a config: a file, or the name of one that mmsolov2 ships.

    ``solov2/solov2_r50_fpn_1x_coco.py``, without the folder or ``.py``, or after ``mmsolov2::``.

    Raises:
        InputError: if there is neither, or several shipped configs have that name.
    """
    if Path(name).is_file():
        return Path(name)
    root = next(filter(Path.is_dir, CONFIG_FOLDERS), CONFIG_FOLDERS[0])
    shipped = [path.relative_to(root) for path in root.glob('[!_]*/*.py')]
    wanted = str(name).removeprefix('mmsolov2::').removesuffix('.py')
    matches = [path for path in shipped if wanted in (path.stem, path.with_suffix('').as_posix())]
    if len(matches) == 1:
        return root / matches[0]
    names = ', '.join(sorted(path.with_suffix('').as_posix() for path in matches or shipped))
    raise InputError(f'{name}: there is no such config file, nor one config of this name: {names}')


def open_config(name: str | Path, options: Mapping | None = None) -> Config:
    """The config of a file or of a shipped name, with the options of ``--cfg-options`` set.

    Raises:
        InputError: if there is none, it cannot be read, it has no place for an option, or is no
            detector's config.
    """
    path = find_config(name)
    with error_context(f'{path}: this config cannot be read'):  # reading a config runs it
        config = Config.fromfile(path)
    return with_options(config, options)


def with_options(config: Config, options: Mapping | None) -> Config:
    """A config of a model, in which the options of ``--cfg-options`` are set now.

    Raises:
        InputError: if it has no model, or no place for an option.
    """
    path = config.filename
    if not isinstance(config.get('model'), dict):
        raise InputError(f'{path}: this config has no model; pass a leaf, not a file of _base_')
    try:
        config.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise InputError(f'{path}: --cfg-options {options} do not fit: {error}') from error
    return config


def base_dataset_configs(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The configs of the datasets in wrappers that repeat, balance or join them, or the one."""
    inside = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    for part in inside:
        yield from base_dataset_configs(part)
    if not inside:
        yield dataset


def dataset_of(config: Config, split: str) -> ConfigDict:
    """The config of the dataset of a split: train, val or test.

    Raises:
        InputError: if the config has none.
    """
    loader = config.get(f'{split}_dataloader')
    if not loader:
        raise InputError(f'{config.filename}: this config has no {split}_dataloader')
    return loader.dataset


def reads_bands(config: Config, split: str = 'test') -> bool:
    """Whether the pictures of a split are numbers of any bands, not images."""
    pipeline = next(base_dataset_configs(dataset_of(config, split))).get('pipeline') or [{}]
    return str(pipeline[0].get('type')).endswith('LoadBandsFromFile')


def require_images(config: Config, what: str, split: str = 'test') -> None:
    """Raise InputError if the pictures of a split are no images: they cannot be drawn on."""
    if reads_bands(config, split):
        raise InputError(
            f'{config.filename}: {what} draws on images, but LoadBandsFromFile reads pictures of '
            'any bands: take tools/test.py without it, or mmsolov2.apis.predict'
        )


def add_tta(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--tta``, which ``with_tta`` reads."""
    text = 'see each image mirrored too, and average both; model.tta has other views'
    parser.add_argument('--tta', action='store_true', help=text)


def with_tta(args: argparse.Namespace) -> dict:
    """The options of ``--cfg-options`` with those of ``--tta``, which they override."""
    return {**({'model.tta': dict(flip=True)} if args.tta else {}), **(args.cfg_options or {})}


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--cfg-options``."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help='settings that override the config, as key=value; lists as key="[a,b]" or key=a,b, '
        'dicts as key="dict(a=1)"',
    )
