"""The text of a page."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mmsolov2.report import page as module
from mmsolov2.report.page import About, Cells, Level, number, page
from mmsolov2.report.pictures import make_pictures

EVIL = '<script>alert(1)</script>'
A, B = (0, 0, 10, 10), (20, 0, 10, 10)
VOID = {'meta', 'link', 'img', 'input', 'br', 'path', 'circle', 'rect'}


class Reader(HTMLParser):
    """The elements of a page, its text, and that each is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ''
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name):
        if name not in VOID or name == self.open[-1]:
            assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data


def about(**changes):
    times = dict(loading=np.array([1.0, 9, 2]), network=np.array([10.0, 20, 30]))
    told = dict(
        config='configs/<b>.py', checkpoint='<b>.pth', data='<b>.json', device='cpu',
        milliseconds=times, listed=1, cells=Cells([Level(8, 1, 64, 2)], {1: 1}),
    )  # fmt: skip
    return About(**{**told, **changes})


def page_of(result, **changes):
    def load(_number):
        return np.full((40, 60, 3), 90, np.uint8)

    made = make_pictures(result.pictures, result.classes, load)
    return page(result, made, about(**changes))


def test_names_are_text(rectangles):
    names = [f'{EVIL}.png', '" onload="alert(1).png', "a'b&amp;#.png"]
    truths = [[(0, A), (1, B)], [(0, A)], [(1, B)]]
    found = [[(1, A, 0.9)], [(0, B, 0.8)], [(1, B, 0.9)]]
    result, _ = rectangles(truths, found, classes=(EVIL, '" onclick="x'), names=names)
    text = page_of(result)
    reader = Reader(text)
    assert EVIL not in text and text.count('<script') == 1 and '<b>' not in text
    assert not any(key.startswith('on') for _, attributes in reader.elements for key in attributes)
    rows = [a['data-name'] for _, a in reader.elements if 'data-name' in a]
    assert sorted(rows) == sorted(names)
    assert EVIL in reader.text and "a'b&amp;#.png" in reader.text


def test_the_page_asks_for_nothing_else(rectangles):
    result, _ = rectangles([[(0, A)]], [[(0, A, 0.9)]])
    text = page_of(result)
    for name, attributes in Reader(text).elements:
        for key in ('src', 'href'):
            assert attributes.get(key, '#').startswith(('#', 'data:')), name
    assert 'http' not in re.sub('http-equiv', '', text)
    assert re.search(r"default-src 'none'; img-src data:;.*script-src 'sha256-[\w+/]{43}='", text)


def test_links_lead_to_sections(rectangles):
    result, _ = rectangles([[(0, A)]], [[(0, A, 0.9)]])
    elements = Reader(page_of(result)).elements
    links = [a['href'][1:] for name, a in elements if name == 'a']
    titles = [a['id'] for name, a in elements if name == 'h2']
    assert links == titles and len(links) > 5


def test_headings_say_what_numbers_mean(rectangles):
    truths = [[(0, A), (1, B)], [(0, A), (0, B)]]
    found = [[(0, A, 0.9), (0, B, 0.405)], [(0, A, 0.8), (0, (40, 20, 10, 10), 0.9)]]
    result, _ = rectangles(truths, found)
    text = Reader(page_of(result, listed=7)).text
    assert 'At a threshold of 0.61 F1 is best: 0.57 (precision 0.67, recall 0.50).' in text
    assert 'missed 2, false alarm 1.' in text
    assert '2 of the 7 pictures of <b>.json, with 4 instances of 2 classes' in text
    assert 'A picture takes 29.0 ms on cpu: loading 2.0, network 20.0 (medians).' in text
    assert '1 of 4 instances (25.0 %) have no cell of their own' in text
    assert 'The weakest class is dog: its mask AP is 0.000.' in text
    assert 'Most often' not in text  # at 0.61 no dog is found as a cat
    assert 'Precision is 0.9 or more' not in text and 'Precision is below 0.9' in text


def test_a_row_has_the_figures_of_its_class(rectangles):
    """Masks by IoU: 0.9, so that AP is 9 of 10; boxes alike. Best of 0 to 0.8 is the middle."""
    result, _ = rectangles([[(0, A)]], [[(0, (0, 0, 10, 9), 0.8)]])
    (cat,) = re.findall('<tr><td>cat</td>.*?</tr>', page_of(result))
    ap = ['0.900', '1.000', '1.000', '0.900', '–', '–']
    assert re.findall('<td>(.*?)</td>', cat) == ['cat', '1', *ap, *ap, '0.40', '1.00']


def test_the_matrix_counts(rectangles):
    truths, found = [[(0, A), (1, B)]] * 3, [[(0, A, 0.9), (0, B, 0.9)]] * 3
    result, _ = rectangles(truths, found)
    text = page_of(result)
    assert 'Most often dog is found as cat: 3 times.' in text
    (matrix,) = re.findall('<table class="matrix.*?</table>', text)
    assert re.findall(r'">(\d*)</td>', matrix) == ['3', '', '', '3', '', '', '', '', '']


@pytest.mark.parametrize(
    ('truths', 'found', 'said'),
    [
        ([[(0, A)]], [[]], 'There is no prediction.'),
        ([[]], [[(0, A, 0.9)]], 'There is no instance to find.'),
        ([[], []], [[], []], 'No prediction is right at any threshold'),
        ([[(0, A)]], [[(0, A, 0.9)]], 'F1 is best: 1.00 (precision 1.00, recall 1.00)'),
    ],
)
@pytest.mark.parametrize('classes', [('cat',), ('cat', 'dog')])
def test_empty_cases_have_a_page(rectangles, truths, found, said, classes):
    result, _ = rectangles(truths, found, classes=classes)
    text = page_of(result, cells=None)
    assert said in Reader(text).text
    assert not re.search(r'\bnan\b|-1\.0', text)
    assert '<td>–</td>' in text  # no large instances
    assert 'The head of this model has no grids of sizes.' in text


def test_much_is_bounded_and_said(rectangles, monkeypatch):
    monkeypatch.setattr(module, 'ROWS', 2)
    monkeypatch.setattr(module, 'CELLS', 3)
    classes = tuple(f'class {index}' for index in range(12))
    truths = [[(index, A)] for index in range(12)]
    found = [[(index, A, 0.9)] for index in range(10)] + [[(0, A, 0.9)], []]
    result, _ = rectangles(truths, found, classes=classes)
    text = page_of(result)
    assert text.count('<tr data-classes') == 2
    assert '12 pictures, the worst first. 10 others, with a higher quality, are left out.' in text
    assert 'The 3 classes with most errors are shown, of 12.' in text
    assert 'The 8 classes with most instances have curves of their own.' in text
    (matrix,) = re.findall('<table class="matrix.*?</table>', text)
    assert 'upright' not in matrix
    shown = re.findall('<th scope="row">(.*?)</th>', matrix)
    assert shown == ['class 0', 'class 10', 'class 11', 'none']


def test_names_of_many_columns_stand_upright(rectangles):
    for number_of_classes in (8, 9):
        classes = tuple(f'class {index}' for index in range(number_of_classes))
        result, _ = rectangles([[(0, A)]], [[(0, A, 0.9)]], classes=classes)
        assert ('<table class="matrix upright">' in page_of(result)) == (number_of_classes == 9)


def test_numbers():
    assert [number(0.12345, 3), number(float('nan')), number(1)] == ['0.123', '–', '1.00']
