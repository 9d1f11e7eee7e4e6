"""Charts, whose shapes are read from their SVG."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mmsolov2.report.charts import Bar, Line, bar_chart, calibration_chart, legend, line_chart

ODD = '<script>"&\''


def parts(chart, name):
    """The attributes of a chart's elements of a name, and their texts; it is well-formed."""
    return [(one.attrib, one.text) for one in ElementTree.fromstring(chart).iter(name)]


def test_a_line_stands_where_its_numbers_are():
    """Axes go from (46, 230) to (428, 10); a gap is a NaN."""
    x = np.array([0, 0.25, 0.5, 1])
    lines = [Line('up', x, x, 'all'), Line(ODD, x, np.array([1, np.nan, 0, 0.5]), 'c3')]
    chart = line_chart('Title', lines, x_label='a <b', y_label='c', mark=(0.5, 0.5, 'here'))
    drawn = {a['class']: a['d'] for a, _ in parts(chart, 'path') if 'line' in a['class']}
    assert drawn['line all'] == 'M46 230L141.5 175L237 120L428 10'
    assert drawn['line c3'] == 'M46 10M237 230L428 120'
    ((point, _),) = parts(chart, 'circle')
    assert (point['cx'], point['cy']) == ('237', '120')
    texts = [text for _, text in parts(chart, 'text')]
    assert {'a <b', 'c', 'here', '0', '0.25', '1'} <= set(texts)
    assert [text for _, text in parts(chart, 'title')] == [ODD, 'up']  # the first is on top
    assert ElementTree.fromstring(chart).attrib['aria-label'] == 'Title'


def test_marks_stay_within_the_chart():
    for x, anchor in ((0.1, 'start'), (0.9, 'end')):
        chart = line_chart('', [], x_label='', y_label='', mark=(x, 0.5, 'marked'))
        (attributes,) = [a for a, text in parts(chart, 'text') if text == 'marked']
        assert attributes['text-anchor'] == anchor


def test_bars_are_as_long_as_their_values():
    chart = bar_chart('', [Bar('one', 1, '1 s'), Bar(ODD, 4, ODD), Bar('none', 0, '')])
    widths = [float(a['width']) for a, _ in parts(chart, 'rect')]
    assert widths[1] == 4 * widths[0] and widths[2] == 1  # still to be seen
    assert ODD in [text for _, text in parts(chart, 'text')]


@pytest.mark.parametrize('bars', [[], [Bar('nothing', 0, '0')]])
def test_bars_of_nothing(bars):
    assert len(parts(bar_chart('', bars), 'rect')) == len(bars)


def test_calibration_leaves_out_empty_bins():
    bins = [
        dict(bin_lower=0.5, bin_upper=0.6, avg_confidence=0.55, avg_accuracy=0.5, count=8),
        dict(bin_lower=0.6, bin_upper=0.7, avg_confidence=0.0, avg_accuracy=0.0, count=0),
    ]
    chart = calibration_chart('', bins)
    ((bar, _),) = parts(chart, 'rect')
    assert (bar['y'], bar['height']) == ('120', '110')
    assert '8' in [text for _, text in parts(chart, 'text')]


def test_names_in_a_legend_are_escaped():
    assert re.search('<li class="c0">&lt;script&gt;', legend([Line(ODD, None, None, 'c0')]))
