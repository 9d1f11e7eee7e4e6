"""The page of a report: one HTML file, which asks for nothing else.

Names of classes, files and folders may be anything: all text goes through ``html.escape``.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from mmsolov2.evaluation.instance_errors import KINDS, SAME
from mmsolov2.report.charts import Bar, Line, bar_chart, calibration_chart, legend, line_chart
from mmsolov2.report.figures import AP_COLUMNS, THRESHOLDS, Figures, Picture, confusion
from mmsolov2.report.pictures import SHOWN, Pictures, worst_first

ROWS = 2000  # pictures in the table, at most
CURVES = 8  # classes with a curve of their own, at most: as many as there are colours
CELLS = 20  # classes in the confusion matrix, at most
UPRIGHT = 9  # columns of it, above which their names stand upright
NONE = '–'
KIND_NAMES = dict(
    missed='missed', false='false alarm', duplicate='duplicate', merged='merged', split='split',
    loose='loose mask', **{'class': 'wrong class'},
)  # fmt: skip
TIDE_NAMES = dict(
    Cls='wrong class', Loc='loose mask', Both='both of these', Dupe='duplicate',
    Bkg='false alarm', Miss='missed',
)  # fmt: skip
FILES = Path(__file__).parent

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'sha256-$hash'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
$content
<script>$script</script>
</body>
</html>
""")


class Level(NamedTuple):
    """A level of the head, and the instances of its sizes."""

    grid: int  # cells along a side
    low: float  # sizes in pixels of the network's input
    high: float
    instances: int


class Cells(NamedTuple):
    """How the instances of a set share the cells of a head's grids."""

    levels: list[Level]
    crowded: dict[int, int]  # instances without a cell of their own, by the picture's number


class About(NamedTuple):
    """What a report is of."""

    config: str
    checkpoint: str
    data: str
    device: str
    milliseconds: dict[str, np.ndarray]  # of each picture (m,), by what takes them
    listed: int  # pictures in the annotation file
    cells: Cells | None  # of heads that have grids


def page(found: Figures, pictures: Pictures, about: About) -> str:
    """The text of the file."""
    sections = [
        head(found, about), ap_section(found), curves_section(found), confusion_section(found),
        errors_section(found, pictures), extremes_section(found, pictures),
        cells_section(found, about), time_section(about), table_section(found, pictures, about),
    ]  # fmt: skip
    script = (FILES / 'page.js').read_text(encoding='utf-8')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return PAGE.substitute(
        hash=digest,
        title=escape(f'Report: {Path(about.config).stem}'),
        style=(FILES / 'page.css').read_text(encoding='utf-8'),
        content='\n'.join(sections),
        script=script,
    )


# Parts of pages


def number(value: float, digits: int = 2) -> str:
    """A figure with so many digits; NaN, for none, is a dash."""
    return NONE if np.isnan(value) else f'{value:.{digits}f}'


def count(how_many: int, what: str) -> str:
    """A number of things.

    >>> count(1, 'picture'), count(2, 'class'), count(0, 'instance')
    ('1 picture', '2 classes', '0 instances')
    """
    ending = '' if how_many == 1 else 'es' if what.endswith('s') else 's'
    return f'{how_many} {what}{ending}'


def section(name: str, title: str, said: str, content: str = '') -> str:
    """A part of the page: its title, what its numbers mean, and what it shows, HTML."""
    top = f'<h2 id="{name}">{escape(title)}</h2>\n<p>{escape(said)}</p>'
    return f'<section>\n{top}\n{content}\n</section>'


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """A table of texts; ``groups`` are names over so many columns each."""
    above = ''.join(
        f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>' for name, span in groups
    )
    heads = ''.join(f'<th scope="col">{escape(name)}</th>' for name in names)
    lines = (''.join(f'<td>{escape(text)}</td>' for text in row) for row in rows)
    return (
        f'<div class="scroll"><table><thead>{above and f"<tr>{above}</tr>"}<tr>{heads}</tr></thead>'
        f'<tbody>{"".join(f"<tr>{line}</tr>" for line in lines)}</tbody></table></div>'
    )


def image(uri: str, text: str, caption: str = '') -> str:
    """A picture with what it shows, and a caption."""
    return (
        f'<figure><img src="{uri}" alt="{escape(text)}">'
        f'<figcaption>{escape(caption or text)}</figcaption></figure>'
    )


# Sections


SECTIONS = dict(
    ap='AP', curves='Curves', confusion='Confusion', errors='Errors', extremes='Worst and best',
    cells='Cells', time='Time', table='All pictures',
)  # fmt: skip


def head(found: Figures, about: About) -> str:
    """Title, what the report is of, and its main results."""
    masks, boxes = (number(found.ap[kind][0, 0], 3) for kind in ('segm', 'bbox'))
    lines = [
        f'Mask AP {masks}, box AP {boxes}.',
        best_said(found),
        f'{errors_said(found)}.',
        time_said(about),
    ]
    items = ''.join(f'<li>{escape(line)}</li>' for line in lines)
    links = ''.join(f'<a href="#{name}">{text}</a>' for name, text in SECTIONS.items())
    return (
        f'<header><h1>{escape(Path(about.config).stem)}</h1>\n'
        f'<p class="soft">{escape(subject_said(found, about))}</p>\n'
        f'<ul class="lead">{items}</ul>\n<nav aria-label="Sections">{links}</nav></header>'
    )


def subject_said(found: Figures, about: About) -> str:
    """What the report is of."""
    pictures = count(len(found.pictures), 'picture')
    if about.listed > len(found.pictures):
        pictures = f'{len(found.pictures)} of the {about.listed} pictures'
    instances = count(int(found.instances[0]), 'instance')
    classes = count(len(found.classes), 'class')
    return f'{about.checkpoint} on {pictures} of {about.data}, with {instances} of {classes}'


def best_said(found: Figures) -> str:
    """The threshold with the best F1, in a sentence."""
    if np.isnan(found.best[0]):
        return (
            'No prediction is right at any threshold, so F1 is 0: below, pictures have what scores '
            f'{found.threshold:g} or more.'
        )
    right = sum(picture.right for picture in found.pictures)
    predicted = sum(len(picture.match) for picture in found.pictures)
    return (
        f'At a threshold of {found.threshold:.2f} F1 is best: {found.top[0]:.2f} (precision '
        f'{right / predicted:.2f}, recall {right / found.instances[0]:.2f}).'
    )


def errors_said(found: Figures) -> str:
    """How many errors of each kind there are, in a line."""
    kinds = [f'{KIND_NAMES[kind]} {found.kinds[kind]}' for kind in KINDS if found.kinds[kind]]
    return f'Errors at this threshold: {", ".join(kinds) or "none"}'


def time_said(about: About) -> str:
    """Where the time goes, in a sentence."""
    parts = {name: float(np.median(each)) for name, each in about.milliseconds.items()}
    total = float(np.median(sum(about.milliseconds.values())))
    said = ', '.join(f'{name} {value:.1f}' for name, value in parts.items())
    return f'A picture takes {total:.1f} ms on {about.device}: {said} (medians).'


def ap_section(found: Figures) -> str:
    """AP by size and class."""
    names = ['class', 'instances', *AP_COLUMNS, *AP_COLUMNS, 'threshold', 'best']
    size = len(AP_COLUMNS)
    groups = (('', 2), ('masks', size), ('boxes', size), ('F1 of masks', 2))
    rows = [ap_row(found, index, name) for index, name in enumerate(('all', *found.classes))]
    said = (
        f'{weakest_said(found)}AP is COCO’s, the mean over IoU from 0.5 to 0.95. Instances are '
        'small below 32², large from 96² pixels on. Threshold is the score from which on F1 of the '
        f'class is best. {NONE} stands for none.'
    )
    return section('ap', 'AP by size and class', said, table(names, rows, groups=groups))


def ap_row(found: Figures, index: int, name: str) -> list[str]:
    """The figures of a class, or of all."""
    figures = [number(value, 3) for kind in ('segm', 'bbox') for value in found.ap[kind][index]]
    best = [number(found.best[index]), number(found.top[index])]
    return [name, str(found.instances[index]), *figures, *best]


def weakest_said(found: Figures) -> str:
    """Which of several classes has the lowest AP, in a sentence."""
    pairs = zip(found.ap['segm'][1:, 0], found.classes, strict=True)
    known = [(value, name) for value, name in pairs if not np.isnan(value)]
    if len(known) < 2:
        return ''
    return f'The weakest class is {min(known)[1]}: its mask AP is {min(known)[0]:.3f}. '


def class_lines(found: Figures, x: np.ndarray, values: np.ndarray) -> list[Line]:
    """Curves of all, and of the classes with most instances, of values (1 + c, n)."""
    most = np.argsort(-found.instances[1:], kind='stable')[:CURVES]
    own = [
        Line(found.classes[index], x, values[1 + index], f'c{place}')
        for place, index in enumerate(sorted(most))
    ]
    return [Line('all', x, values[0], 'all'), *(own if len(found.classes) > 1 else ())]


def curves_section(found: Figures) -> str:
    """Precision by recall, F1 by threshold, calibration, and what costs AP."""
    recall = np.linspace(0, 1, found.precision.shape[1])
    precision = class_lines(found, recall, found.precision)
    bins = calibration_chart('Share of right predictions by score', found.calibration['bins'])
    charts = (
        ('Precision by recall', high_precision(found, recall), line_chart(
            'Precision by recall', precision, x_label='recall', y_label='precision')),
        ('F1 by threshold of scores', best_said(found), f1_chart(found)),
        ('Scores beside the truth', calibration_said(found), bins),
        ('What costs AP', tide_said(found), tide_chart(found)),
    )  # fmt: skip
    shown = ''.join(
        f'<div><h3>{title}</h3><p>{escape(said)}</p>{chart}</div>' for title, said, chart in charts
    )
    names = legend(precision) if len(precision) > 1 else ''
    said = f'Of masks, where a prediction is right from an IoU of {SAME:g} on.'
    if len(found.classes) > CURVES:
        said += f' The {CURVES} classes with most instances have curves of their own.'
    return section('curves', 'Curves', said, f'{names}<div class="pair">{shown}</div>')


def f1_chart(found: Figures) -> str:
    """F1 by threshold, with the best one marked."""
    lines, best = class_lines(found, THRESHOLDS, found.f1), found.best[0]
    mark = None if np.isnan(best) else (best, found.top[0], f'{best:.2f}')
    return line_chart('F1 by threshold', lines, x_label='threshold', y_label='F1', mark=mark)


def high_precision(found: Figures, recall: np.ndarray) -> str:
    """How far precision is high, in a sentence."""
    high = recall[np.nan_to_num(found.precision[0]) >= 0.9]
    if np.isnan(found.precision[0]).all():
        return 'There is no instance to find.'
    if not len(high):
        return 'Precision is below 0.9 at any recall.'
    return f'Precision is 0.9 or more up to a recall of {high[-1]:.2f}.'


def calibration_said(found: Figures) -> str:
    """How far scores are from what they promise, in a sentence."""
    bins = [one for one in found.calibration['bins'] if one['count']]
    if not bins:
        return 'There is no prediction.'
    total = sum(one['count'] for one in bins)
    gap = sum(one['count'] * (one['avg_confidence'] - one['avg_accuracy']) for one in bins) / total
    direction = 'too high' if gap > 0 else 'too low'
    return (
        f'Scores differ from the share of right predictions by {found.calibration["ece"]:.2f} in '
        f'the mean (expected calibration error); on the whole they are {abs(gap):.2f} {direction}. '
        'Numbers are of predictions.'
    )


def confusion_section(found: Figures) -> str:
    """Which classes are found as which."""
    counts = confusion(found.pictures, len(found.classes))
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    places = np.arange(len(found.classes))
    said = 'Rows are the truth, columns what is found, by the threshold; none is found or there.'
    if len(places) > CELLS:
        most = np.argsort(-(wrong.sum(0) + wrong.sum(1))[:-1], kind='stable')[:CELLS]
        places = np.sort(most)
        said += f' The {CELLS} classes with most errors are shown, of {len(found.classes)}.'
    between = wrong[:-1, :-1]
    if between.any():
        row, column = np.unravel_index(between.argmax(), between.shape)
        first, second = found.classes[row], found.classes[column]
        times = count(int(between[row, column]), 'time')
        said = f'Most often {first} is found as {second}: {times}. {said}'
    shown = np.r_[places, len(found.classes)]
    return section('confusion', 'Confusion of classes', said, matrix(found, counts, shown))


def matrix(found: Figures, counts: np.ndarray, places: np.ndarray) -> str:
    """The confusion of some classes as a table; the more of a row, the darker."""
    names = (*found.classes, 'none')
    columns = ''.join(f'<th scope="col">{escape(names[place])}</th>' for place in places)
    rows = []
    for row in places:
        total = max(counts[row].sum(), 1)
        cells = ''.join(
            f'<td{" class=own" if row == column != len(found.classes) else ""} '
            f'style="--share:{counts[row, column] / total:.3f}">{counts[row, column] or ""}</td>'
            for column in places
        )
        rows.append(f'<tr><th scope="row">{escape(names[row])}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="matrix{" upright" if len(places) > UPRIGHT else ""}">'
        '<thead><tr><td></td>'
        f'{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def tide_said(found: Figures) -> str:
    """What costs most AP, in a sentence."""
    costs = {TIDE_NAMES[kind]: cost for kind, (cost, _) in found.tide.items()}
    worst = max(costs, key=costs.__getitem__)
    most = f'Most AP is lost to the type {worst}: {costs[worst]:.3f}. ' if costs[worst] > 0 else ''
    return (
        f'{most}AP at an IoU of {SAME:g} that is lost to each type of error, over all scores, and '
        'the number of errors (TIDE).'
    )


def tide_chart(found: Figures) -> str:
    """What each type of error costs."""
    bars = []
    for kind, name in TIDE_NAMES.items():
        cost, times = found.tide[kind]
        bars.append(Bar(name, cost, f'{cost:.3f} ({times})'))
    return bar_chart('AP lost by type of error', bars)


def errors_section(found: Figures, pictures: Pictures) -> str:
    """Errors of each kind, counted, with pictures of some."""
    said = (
        f'{errors_said(found)}. Left the truth, right what is found, in the same colour where both '
        'are one; grey is not in the error. Those with the highest scores, or the largest, are '
        'shown.'
    )
    parts = (kind_part(kind, found.kinds[kind], pictures) for kind in KINDS if found.kinds[kind])
    return section('errors', 'Errors of instances', said, ''.join(parts))


def kind_part(kind: str, total: int, pictures: Pictures) -> str:
    """The errors of a kind."""
    name, crops = KIND_NAMES[kind], pictures.crops[kind]
    more = f', {len(crops)} of them shown' if len(crops) < total else ''
    figures = ''.join(
        image(crop.image, f'{crop.picture.name}: {name}', crop.picture.name) for crop in crops
    )
    return (
        f'<h3>{name.capitalize()}: {total}</h3><p class="soft">{escape(KINDS[kind])}{more}</p>'
        f'<div class="pictures">{figures}</div>'
    )


def extremes_section(found: Figures, pictures: Pictures) -> str:
    """The worst and the best pictures."""
    every = {picture.number: picture for picture in found.pictures}
    parts = []
    for title, images in (('Worst', pictures.worst), ('Best', pictures.best)):
        ranked = sorted(images, key=lambda one: every[one].quality, reverse=title == 'Best')
        figures = ''.join(image(images[one], summary(every[one])) for one in ranked)
        none = '<p class="soft">There is none.</p>'
        parts.append(f'<h3>{title}</h3><div class="pictures large">{figures or none}</div>')
    said = (
        'Quality of a picture is the sum of its matches’ IoU, over the mean number of instances '
        f'and predictions. At most {SHOWN} each; left the truth, right what is found.'
    )
    return section('extremes', 'Worst and best pictures', said, ''.join(parts))


def summary(picture: Picture) -> str:
    """A picture in a line."""
    instances = count(len(picture.truth.masks), 'instance')
    found = f'{picture.right} of {instances} found, {count(len(picture.errors), "error")}'
    return f'{picture.name}: quality {picture.quality:.2f}, {found}'


def cells_section(found: Figures, about: About) -> str:
    """Instances that share their cells."""
    title = 'Cells of the grids'
    if about.cells is None:
        return section('cells', title, 'The head of this model has no grids of sizes.')
    total, crowded = int(found.instances[0]), sum(about.cells.crowded.values())
    share = 100 * crowded / max(total, 1)
    said = (
        f'{crowded} of {count(total, "instance")} ({share:.1f} %) have no cell of their own on any '
        'level that takes their size: the centre of another is in it. Such instances get lost or '
        'mixed up; finer grids (mask_head.num_grids) or larger pictures help.'
    )
    rows = [
        [f'{level.grid}×{level.grid}', f'{level.low:g} to {level.high:g}', str(level.instances)]
        for level in about.cells.levels
    ]
    names = ['cells of the level', 'sizes, pixels of the input', 'instances of these sizes']
    return section('cells', title, said, table(names, rows))


def time_section(about: About) -> str:
    """Where the time goes."""
    medians = {name: float(np.median(each)) for name, each in about.milliseconds.items()}
    bars = [Bar(name, value, f'{value:.1f} ms') for name, value in medians.items()]
    return section('time', 'Where the time goes', time_said(about), bar_chart('Times', bars))


# The table of all pictures


def table_section(found: Figures, pictures: Pictures, about: About) -> str:
    """All pictures, to be sorted and filtered."""
    ranked = worst_first(found.pictures)
    said = [f'{count(len(ranked), "picture")}, the worst first.']
    if len(ranked) > len(pictures.thumbnails):
        said.append(f'The {len(pictures.thumbnails)} worst are shown small.')
    if len(ranked) > ROWS:
        said.append(f'{len(ranked) - ROWS} others, with a higher quality, are left out.')
    said.append('Click a column’s name to sort, again to turn round.')
    rows = ''.join(table_row(picture, pictures, about.cells) for picture in ranked[:ROWS])
    content = (
        f'{filters(found)}<div class="scroll"><table id="pictures">'
        f'<thead><tr>{table_head(about)}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
    return section('table', 'All pictures', ' '.join(said), content)


def table_head(about: About) -> str:
    """The names of the table's columns, buttons that sort."""
    names = {'picture': 'text', 'quality': '', 'instances': '', 'predictions': '', 'right': ''}
    names |= {'errors': '', 'kinds of errors': 'text'}
    names |= {'without a cell': ''} if about.cells else {}
    buttons = ''.join(
        f'<th scope="col" class="{style}"><button type="button">{name}</button></th>'
        for name, style in names.items()
    )
    return f'<th scope="col">truth | found</th>{buttons}'


def filters(found: Figures) -> str:
    """What the table is filtered by."""
    return (
        '<form id="filter" autocomplete="off">'
        f'{choice("of_class", "class", dict(enumerate(found.classes)))}'
        f'{choice("of_kind", "kind of error", {**KIND_NAMES, "none": "none"})}'
        '<label>name <input name="of_name" type="search"></label>'
        '<output id="shown" aria-live="polite"></output></form>'
    )


def choice(name: str, label: str, options: Mapping) -> str:
    """A list to choose one of, or all."""
    items = ''.join(
        f'<option value="{key}">{escape(text)}</option>' for key, text in options.items()
    )
    every = f'<option value="">all</option>{items}'
    return f'<label>{label} <select name="{name}">{every}</select></label>'


def table_row(picture: Picture, pictures: Pictures, cells: Cells | None) -> str:
    """A picture's row."""
    labels = sorted({*picture.truth.labels.tolist(), *picture.found.labels.tolist()})
    kinds = [kind for kind in KINDS if any(kind == error.kind for error in picture.errors)]
    uri = pictures.thumbnails.get(picture.number)
    shown = f'<img src="{uri}" alt="truth and found of {escape(picture.name)}">' if uri else ''
    counts = [
        len(picture.truth.masks), len(picture.found.masks), picture.right, len(picture.errors)
    ]  # fmt: skip
    numbers = ''.join(f'<td data-value="{value}">{value}</td>' for value in counts)
    crowded = cells.crowded.get(picture.number, 0) if cells else 0
    own = f'<td data-value="{crowded}">{crowded or ""}</td>' if cells else ''
    return (
        f'<tr data-classes="{" ".join(map(str, labels))}" '
        f'data-kinds="{" ".join(kinds or ["none"])}" '
        f'data-name="{escape(picture.name)}"><td>{shown}</td>'
        f'<td class="text name">{escape(picture.name)}</td>'
        f'<td data-value="{picture.quality:.4f}">{picture.quality:.2f}</td>{numbers}'
        f'<td class="text">{", ".join(KIND_NAMES[kind] for kind in kinds)}</td>{own}</tr>\n'
    )
