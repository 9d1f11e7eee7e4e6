'use strict';
{
  const table = document.getElementById('pictures');
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const form = document.getElementById('filter');
  const shown = document.getElementById('shown');

  const key = (row, column) => {
    const cell = row.cells[column];
    return 'value' in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (a, b) =>
    typeof a === 'number' ? a - b : a.localeCompare(b, undefined, { numeric: true });

  const sort = (head) => {
    const falls = head.getAttribute('aria-sort') === 'ascending';
    for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', falls ? 'descending' : 'ascending');
    const column = head.cellIndex;
    rows.sort((a, b) => (falls ? -1 : 1) * compare(key(a, column), key(b, column)));
    body.append(...rows);
  };

  const filter = () => {
    const { of_class, of_kind, of_name } = form.elements;
    const has = (row, list, value) => !value || row.dataset[list].split(' ').includes(value);
    const name = of_name.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !(
        has(row, 'classes', of_class.value) &&
        has(row, 'kinds', of_kind.value) &&
        row.dataset.name.toLowerCase().includes(name)
      );
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.length} pictures`;
  };

  for (const button of table.tHead.querySelectorAll('button')) {
    button.addEventListener('click', () => sort(button.closest('th')));
  }
  form.addEventListener('input', filter);
  form.addEventListener('submit', (event) => event.preventDefault());
  filter();
}
