"""Figures as Markdown."""

from mmsolov2.cli.tables import markdown_table


def test_lines_of_a_table():
    lines = markdown_table(['row', 'AP'], [['a', '1.0'], ['b', '–']])
    assert lines == '| row | AP |\n| --- | --- |\n| a | 1.0 |\n| b | – |\n'
