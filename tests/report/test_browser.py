"""The page in Chromium, by the protocol of WebDriver; skipped where there is none."""

import json
import re
import shutil
import subprocess
import urllib.request

import numpy as np
import pytest

from mmsolov2.report.page import About, Cells, Level, page
from mmsolov2.report.pictures import make_pictures

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason='there is no chromium, or no chromedriver'
)
FLAGS = (
    'headless', 'no-sandbox', 'disable-gpu', 'disable-background-networking',
    'disable-component-update', 'disable-sync', 'disable-quic', 'no-first-run',
)  # fmt: skip
A, B, C = (0, 0, 10, 10), (20, 0, 10, 10), (40, 0, 10, 10)
CLASSES = ('<script>alert(1)</script>', 'dog')
TAB, ENTER = '\ue004', '\ue007'


class Browser:
    """A session of a driver at a port."""

    def __init__(self, address, profile):
        self.address = address
        options = dict(
            args=[f'--{flag}' for flag in FLAGS] + [f'--user-data-dir={profile}'], binary=CHROMIUM
        )
        wanted = {'goog:chromeOptions': options, 'goog:loggingPrefs': dict(browser='ALL')}
        created = self.ask('POST', '/session', dict(capabilities=dict(alwaysMatch=wanted)))
        self.address += f'/session/{created["sessionId"]}'

    def ask(self, method, path, content=None):
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())['value']

    def run(self, script, *arguments):
        """What a script, the body of a function, returns."""
        return self.ask('POST', '/execute/sync', dict(script=script, args=arguments))

    def press(self, *keys):
        actions = [dict(type=kind, value=key) for key in keys for kind in ('keyDown', 'keyUp')]
        self.ask('POST', '/actions', dict(actions=[dict(type='key', id='keys', actions=actions)]))

    def messages(self):
        """What the console has said."""
        return self.ask('POST', '/se/log', dict(type='browser'))


@pytest.fixture(scope='module')
def driver():
    """The address of a driver that runs; it says which port it has found."""
    process = subprocess.Popen([DRIVER, '--port=0'], stdout=subprocess.PIPE, text=True)
    ports = (re.search(r'successfully on port (\d+)', line) for line in process.stdout)
    port = next(filter(None, ports))[1]
    yield f'http://127.0.0.1:{port}'
    process.terminate()
    process.communicate()


@pytest.fixture
def browser(driver, rectangles, tmp_path):
    """A browser with a page of four pictures; the first in the table has the lowest quality."""
    names = ['10.png', '9.png', 'Ünïcode #1.png', '<b>.png']
    truths = [[(0, A), (1, B)], [(0, A)], [], [(1, A), (1, B), (1, C)]]
    found = [
        [(0, A, 0.9)],
        [(0, (0, 0, 10, 9), 0.9), (0, C, 0.8)],
        [],
        [(1, A, 0.9), (1, B, 0.9), (1, C, 0.9), (1, (40, 1, 10, 9), 0.9)],
    ]
    result, _ = rectangles(truths, found, classes=CLASSES, names=names)
    made = make_pictures(
        result.pictures, CLASSES, lambda number: np.full((40, 60, 3), 60 * number - 40, np.uint8)
    )
    times = dict(loading=np.ones(4), network=np.ones(4))
    cells = Cells([Level(8, 1, 64, 7)], {4: 2})
    about = About('my model.py', 'a.pth', 'val.json', 'cpu', times, 4, cells)
    file = tmp_path / 'odd name #1.html'
    file.write_text(page(result, made, about), encoding='utf-8')
    browser = Browser(driver, tmp_path / 'profile')
    browser.ask('POST', '/url', dict(url=file.as_uri()))
    yield browser
    browser.ask('DELETE', '')


def names_shown(browser):
    """The names in the rows that are shown, from top to bottom."""
    return browser.run(
        "return [...document.querySelectorAll('#pictures tbody tr')]"
        '.filter(row => row.offsetHeight).map(row => row.cells[1].textContent)'
    )


def test_the_page_is_shown_without_a_complaint(browser):
    assert browser.messages() == []
    assert browser.run('return document.title') == 'Report: my model'
    sizes = browser.run('return [...document.images].map(one => one.naturalWidth)')
    assert len(sizes) >= 8 and min(sizes) > 100
    shown = browser.run(
        'return [...document.querySelectorAll("svg")].map(one => one.getBoundingClientRect().width)'
    )
    assert len(shown) == 5 and min(shown) > 300
    assert browser.run('return document.querySelectorAll("script").length') == 1
    requests = browser.run("return performance.getEntriesByType('resource').map(one => one.name)")
    assert [one for one in requests if not one.startswith('data:')] == []


def test_scripts_of_others_do_not_run(browser):
    """A page whose text is not escaped would still be harmless."""
    browser.run(
        "const other = document.createElement('script'); other.textContent = 'window.bad = 1';"
        'document.body.append(other)'
    )
    assert browser.run('return window.bad === undefined')
    assert any('Content Security Policy' in one['message'] for one in browser.messages())


def test_tables_are_sorted(browser):
    assert names_shown(browser) == ['10.png', '<b>.png', '9.png', 'Ünïcode #1.png']
    orders = {  # of columns: first and second click
        'picture': ['<b>.png', '9.png', '10.png', 'Ünïcode #1.png'],
        'quality': ['10.png', '<b>.png', '9.png', 'Ünïcode #1.png'],
        'instances': ['Ünïcode #1.png', '9.png', '10.png', '<b>.png'],
    }
    for column, expected in orders.items():
        for order, direction in ((expected, 'ascending'), (expected[::-1], 'descending')):
            browser.run(
                "[...document.querySelectorAll('#pictures th button')]"
                '.find(one => one.textContent === arguments[0]).click()',
                column,
            )
            assert names_shown(browser) == order, column
            marked = browser.run(
                "return [...document.querySelectorAll('[aria-sort]')]"
                '.map(one => [one.textContent, one.ariaSort])'
            )
            assert marked == [[column, direction]]
    assert browser.messages() == []


def choose(browser, name, value):
    """Give a field of the filter a value, as a person does."""
    browser.run(
        'const field = document.querySelector(`[name=${arguments[0]}]`);'
        'field.value = arguments[1];'
        "field.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


def test_tables_are_filtered(browser):
    choose(browser, 'of_class', '0')
    assert names_shown(browser) == ['10.png', '9.png']
    choose(browser, 'of_kind', 'missed')
    assert names_shown(browser) == ['10.png']
    assert browser.run("return document.getElementById('shown').textContent") == '1 of 4 pictures'
    choose(browser, 'of_class', '')
    choose(browser, 'of_kind', 'none')
    assert names_shown(browser) == ['9.png', 'Ünïcode #1.png']
    choose(browser, 'of_kind', '')
    choose(browser, 'of_name', 'ÜNÏ')
    assert names_shown(browser) == ['Ünïcode #1.png']
    choose(browser, 'of_name', 'nothing')
    assert names_shown(browser) == []
    assert browser.messages() == []


def test_the_keyboard_is_enough(browser):
    """Tab goes from the name to the first column, where a frame is seen; Enter sorts by it."""
    browser.run("document.querySelector('[name=of_name]').focus()")
    browser.press(TAB)
    focused = 'const one = document.activeElement, style = getComputedStyle(one);'
    text, style, width = browser.run(
        f'{focused} return [one.textContent, style.outlineStyle, style.outlineWidth]'
    )
    assert (text, style, width) == ('picture', 'solid', '2px')
    browser.press(ENTER)
    assert names_shown(browser)[0] == '<b>.png'
    browser.press(TAB, TAB, ENTER)  # instances
    assert names_shown(browser)[0] == 'Ünïcode #1.png'
    browser.run("document.querySelector('nav a').focus()")
    browser.press(ENTER)
    assert browser.run('return location.hash') == '#ap'


@pytest.mark.parametrize('theme', ['light', 'dark'])
def test_text_stands_out_in_both_themes(browser, theme):
    features = [dict(name='prefers-color-scheme', value=theme)]
    command = dict(cmd='Emulation.setEmulatedMedia', params=dict(features=features))
    browser.ask('POST', '/goog/cdp/execute', command)
    paper, ink, soft = browser.run(
        'const colour = (one, name) => getComputedStyle(document.querySelector(one))[name]'
        ".match(/\\d+/g).map(Number); return [colour('body', 'backgroundColor'),"
        "colour('body', 'color'), colour('.soft', 'color')]"
    )
    assert (sum(paper) > 600) == (theme == 'light')
    assert contrast(paper, ink) > 7 and contrast(paper, soft) > 4.5


def contrast(first, second):
    """The contrast of two colours, as WCAG defines it."""
    lights = []
    for colour in (first, second):
        parts = np.array(colour) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(lights) / min(lights)


def test_a_narrow_window_has_no_scrollbar_below(browser):
    size = dict(width=380, height=800, deviceScaleFactor=1, mobile=False)
    command = dict(cmd='Emulation.setDeviceMetricsOverride', params=size)
    browser.ask('POST', '/goog/cdp/execute', command)
    assert browser.run('return document.documentElement.scrollWidth') <= 380
