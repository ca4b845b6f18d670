/** The state of the gateway, as it changes. @module */

import { dataBlock, element, make } from './page.js';
import { Plot } from './plots.js';
import { date, shown } from './units.js';

/** @typedef {Record<string, number | null>} Figures */
/** @typedef {Record<string, any>} Row */
/** @typedef {{at: number, figures: Figures, tables: Record<string, Row[]>}} State */

const up = element('status').dataset.up ?? '';
const plots = [.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('.plot'))].map((one) => new Plot(one));
const values = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('dd[data-key]')]);

/** How a row of each table is shown. @type {Record<string, (row: Row, state: State) => (Node | string)[]>} */
const rows = {
  usage: (row, state) => [
    make('a', { href: `${up}view/${row.token}/` }, row.token),
    shown(row.bytes, 'bytes'),
    shown(state.figures.bytes ? row.bytes / state.figures.bytes : null, 'share'),
    shown(row.tiles, 'count'),
    date(row.used),
    row.quota ? shown(row.quota, 'bytes') : '–',
  ],
  jobs: (row) => [
    String(row.id),
    row.title,
    row.state,
    make('span', { class: 'progress' },
      make('progress', { max: Math.max(1, row.cuboids), value: row.done, 'aria-label': `Progress of job ${row.id}` }),
      ` ${shown(row.done, 'count')} of ${shown(row.cuboids, 'count')}`),
    shown(row.failed, 'count'),
    shown(row.eta, 'seconds'),
  ],
  upstreams: (row) => [row.kind, shown(row.requests, 'count'), shown(row.failed, 'count'), shown(row.seconds, 'seconds')],
  breakers: (row) => [row.token, row.home, row.state],
  slowest: (row) => {
    const { x, y, z } = row.place;
    return [
      shown(row.seconds, 'seconds'),
      date(row.at),
      row.token,
      make('a', { href: `${up}view/${row.token}/?x=${x}&y=${y}&z=${z}` }, row.name),
      row.outcome,
    ];
  },
};

/** @param {State} state */
function show(state) {
  for (const value of values) {
    value.textContent = shown(state.figures[value.dataset.key ?? ''], value.dataset.unit ?? '');
  }
  for (const [name, cells] of Object.entries(rows)) {
    const table = /** @type {HTMLTableElement} */ (element(`table-${name}`));
    const found = state.tables[name] ?? [];
    table.tBodies[0].replaceChildren(...found.map((row) => make('tr', {}, ...cells(row, state).map((cell) => make('td', {}, cell)))));
    table.closest('section')?.classList.toggle('empty-table', !found.length);
  }
}

/** @param {string} text @param {string} [kind] */
function say(text, kind = '') {
  const place = element('connection');
  place.textContent = text;
  place.className = `hint ${kind}`;
}

function listen() {
  const events = new EventSource(`${up}status.events`);
  events.addEventListener('history', (event) => {
    const past = JSON.parse(event.data);
    for (const plot of plots) {
      plot.add(past.at.map((/** @type {number} */ at, /** @type {number} */ n) => [at, past.figures[plot.key][n]]));
    }
  }, { once: true });
  events.addEventListener('message', (event) => {
    /** @type {State} */
    const state = JSON.parse(event.data);
    show(state);
    for (const plot of plots) plot.add([[state.at, state.figures[plot.key]]]);
    say('Live');
  });
  events.addEventListener('error', () => {
    say('The gateway does not answer; trying again', 'failing');
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 30_000);
  });
}

show(dataBlock('state'));
say('Waiting for news');
listen();
