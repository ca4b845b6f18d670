/** Small plots: a line, its largest value, and the same as a table. @module */

import { clock, shown } from './units.js';

const WIDTH = 260;
const HEIGHT = 64;
const MOST = 300;
const ROWS = 12;
const SVG = 'http://www.w3.org/2000/svg';

/** One plot, in an element that `state.py` has made. */
export class Plot {
  /** @param {HTMLElement} place */
  constructor(place) {
    this.key = place.dataset.key ?? '';
    this._unit = place.dataset.unit ?? '';
    this._place = place;
    /** @type {[number, number | null][]} */
    this._values = [];
    this._line = document.createElementNS(SVG, 'path');
    this._area = document.createElementNS(SVG, 'path');
    this._area.setAttribute('class', 'area');
    this._line.setAttribute('class', 'line');
    const drawing = document.createElementNS(SVG, 'svg');
    drawing.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
    drawing.setAttribute('preserveAspectRatio', 'none');
    drawing.setAttribute('aria-hidden', 'true');
    drawing.append(this._area, this._line);
    this._most = document.createElement('span');
    this._most.className = 'most';
    place.querySelector('.drawing')?.append(drawing, this._most);
    place.querySelector('details')?.addEventListener('toggle', () => this._fill());
  }

  /**
   * Add values.
   * @param {[number, number | null][]} values (seconds since 1970, value) pairs
   */
  add(values) {
    this._values = [...this._values, ...values].slice(-MOST);
    this._draw();
    this._fill();
  }

  _draw() {
    const known = this._values.filter(([, value]) => value !== null);
    const numbers = known.map(([, value]) => Number(value));
    const top = this._unit === 'share' ? 1 : Math.max(...numbers, 0);
    const latest = this._place.querySelector('.latest');
    if (latest) latest.textContent = shown(this._values.at(-1)?.[1], this._unit);
    this._most.textContent = numbers.length ? shown(top, this._unit) : '';
    if (known.length < 2) return;
    const end = known[known.length - 1][0];
    const begin = Math.min(known[0][0], end - 60);
    const points = known.map(([at, value]) => {
      const x = (WIDTH * (at - begin)) / (end - begin);
      const y = HEIGHT - 2 - (top > 0 ? ((HEIGHT - 6) * Number(value)) / top : 0);
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    });
    const line = `M${points.join('L')}`;
    this._line.setAttribute('d', line);
    this._area.setAttribute('d', `${line}V${HEIGHT}H${points[0].split(',')[0]}Z`);
  }

  /** Fill the table, if it is open. */
  _fill() {
    const details = this._place.querySelector('details');
    const body = this._place.querySelector('tbody');
    if (!details?.open || !body) return;
    body.replaceChildren(...this._values.slice(-ROWS).reverse().map(([at, value]) => {
      const row = document.createElement('tr');
      row.insertCell().textContent = clock(at);
      row.insertCell().textContent = shown(value, this._unit);
      return row;
    }));
  }
}
