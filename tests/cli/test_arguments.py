"""What the tools' command lines share."""

import pytest

from mmsolov2.cli.arguments import at_least, tool_parser


def test_help_is_the_docstring():
    parser = tool_parser('Cut wood.\n\n    cut.py LOG\n\nIt stays\nas it is.\n')
    parser.add_argument('log', help='what to cut')
    first, rest = parser.format_help().split('what to cut')
    assert 'Cut wood.' in first
    assert rest.endswith('    cut.py LOG\n\nIt stays\nas it is.\n')


def test_numbers_from_the_least_on(capsys):
    parser = tool_parser('')
    parser.add_argument('--jobs', type=at_least(1))
    assert parser.parse_args(['--jobs', '1']).jobs == 1
    for text in ('0', '-1', '1.5', 'x'):
        with pytest.raises(SystemExit):
            parser.parse_args(['--jobs', text])
        assert f"--jobs: '{text}' is not a number of at least 1" in capsys.readouterr().err
