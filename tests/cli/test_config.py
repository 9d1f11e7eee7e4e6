"""What options make of a config."""

import argparse

from mmsolov2.cli.config import add_cfg_options, add_tta, open_config, with_tta


def options(*words: str) -> dict:
    """The options that words of a command line set."""
    parser = argparse.ArgumentParser()
    add_tta(parser)
    add_cfg_options(parser)
    return with_tta(parser.parse_args(words))


def test_tta():
    assert options() == {}
    config = open_config('solov2-plus_r18_fpn_shapes', options('--tta'))
    assert config.model.tta == dict(flip=True)


def test_the_config_and_its_options_say_which_views():
    words = '--tta', '--cfg-options', 'model.tta.flip=False', 'model.tta.scales=(0.8,1.25)'
    config = open_config('solov2-plus_r18_fpn_shapes', options(*words))
    assert config.model.tta == dict(flip=False, scales=(0.8, 1.25))
