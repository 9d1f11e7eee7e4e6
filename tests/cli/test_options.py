"""What --cfg-options mean."""

import argparse

import pytest
from mmengine.config import DictAction

from mmsolov2.cli.config import add_cfg_options
from mmsolov2.cli.options import read_value

AS_MMENGINE = [
    '1', '-1', '+2', '1e-3', '-0.5', '007', '1_000', 'true', 'False', 'TRUE', 'None', 'none', '',
    'word', 'mmsolov2.SOLOv2', 'data/a-b.json', '/data/a.json', 'https://a.b/c?d=e', 'a=b', 'inf',
    '1,2', 'a,b', 'a,', '1,true,None,x', '[1,2]', '[a,b]', '[]', '()', '(1,2)', '(1)', '[1,2,]',
    '[(1,2),(3,4)]', '[[1,2],[3]]', '([1],2)', '[a/b.json,/c/d.json]', '[-1,-0.5]', 'a,(1,2)',
    '"[1,2]"', "'(1,2)'", '[ab]*.png', 'run(1)', 'a(b', "it's", '[1,,2]', 'epoch_{}.pth'
]  # fmt: skip


@pytest.mark.parametrize('text', AS_MMENGINE)
def test_as_mmengine(text):
    expected = DictAction._parse_iterable(text)
    assert read_value(text) == expected and type(read_value(text)) is type(expected)


@pytest.mark.parametrize(
    ('text', 'value'), [
        ('[dict(type="EMAHook")]', [dict(type='EMAHook')]),
        ("[dict(type='EMAHook', momentum=1e-4, by=None), dict()]",
         [dict(type='EMAHook', momentum=1e-4, by=None), {}]),
        ('dict(type=EMAHook,sizes=[1,(2,3)],inner=dict(a=true))',
         dict(type='EMAHook', sizes=[1, (2, 3)], inner=dict(a=True))),
        ("{'a': 1, b: [x, y], 2: {}}", {'a': 1, 'b': ['x', 'y'], 2: {}}),
        ("{'a:b': 'c:d', e: http://f}", {'a:b': 'c:d', 'e': 'http://f'}),
        ('dict(a="x=y, z", b=c=d,)', dict(a='x=y, z', b='c=d')),
        ('"one, word"', 'one, word'),
        ("['a,b', \"c]\", it's]", ['a,b', 'c]', "it's"]),
        ("'5'", '5'),
        ('""', ''),
        ('(1,2),(3,4)', [(1, 2), (3, 4)]),
        ('[1, [2, [3, []]]]', [1, [2, [3, []]]]),
        ('run(1,2)', 'run(1,2)'),
        ('[slice(1,2),a]', ['slice(1,2)', 'a']),
        ('my folder/epoch (1).pth', 'my folder/epoch (1).pth'),
        ('__import__("os").system("false")', '__import__("os").system("false")'),
    ]
)  # fmt: skip
def test_as_python(text, value):
    assert read_value(text) == value and repr(read_value(text)) == repr(value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('foo', 'there is no ='),
        ('=1', 'there is no key'),
        ('a=[1,2', '] is missing'),
        ('a="[1,2"', '] is missing'),
        ('a=[1,(2]', '] closes nothing'),
        ('a=1,2]', '] closes nothing'),
        ('a=[dict(type="x]', '" is missing'),
        ('a=dict(type)', "'type' has no ="),
        ('a={1,2}', "'1' has no :"),
        ('a={[1]:2}', 'unhashable'),
    ],
)
def test_what_cannot_be_read(text, message, capsys):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    with pytest.raises(SystemExit) as exit_:
        parser.parse_args(['--cfg-options', 'b=1', text])
    assert exit_.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f'error: --cfg-options {text}: give key=value, lists as key="[a,b]" or' in last
    assert message in last


def test_options_add_up():
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    args = parser.parse_args(['--cfg-options', 'a=1', 'b=2', '--cfg-options', 'a=3', 'c.d='])
    assert args.cfg_options == {'a': 3, 'b': 2, 'c.d': ''}
    assert parser.parse_args([]).cfg_options is None
