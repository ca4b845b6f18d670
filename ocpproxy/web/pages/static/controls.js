/** The controls beside the slices. All are elements of HTML that keyboard and touch know. @module */

import { COLOURS } from './channels.js';
import { axesOf } from './geometry.js';
import { announce, copy, element, make } from './page.js';
import { LAYOUTS, PLANES } from './place.js';

/** @typedef {import('./place.js').Place} Place */
/** @typedef {import('./channels.js').ShownChannels} ShownChannels */
/** @typedef {import('./channels.js').ShownChannel} ShownChannel */
/** @typedef {import('./flight.js').Flight} Flight */

const LAYOUT_NAMES = /** @type {Record<string, string>} */ ({ xy: 'x–y', xz: 'x–z', zy: 'z–y', all: 'All' });
/** Slices of each key, by its character and, with shift, by its place on the keyboard. @type {Record<string, number>} */
const STEPS = { ',': -1, '.': 1, '<': -1, '>': 1, Comma: -1, Period: 1 };
const KEYS = [
  [', and .', 'the slice before, the next one; held: fly'],
  ['shift', 'ten at a time'],
  ['arrow keys', 'move'],
  ['+ and −', 'zoom'],
  ['1 2 3 4', 'x–y, x–z, z–y, all three'],
];

/**
 * What the controls do beside changing place and channels.
 * @typedef {object} Actions
 * @property {() => string} link the address of what is seen
 * @property {() => string} neuroglancer the same place in Neuroglancer; empty where there is none
 * @property {() => string} tile the address of the tile in the middle
 * @property {string} catmaid
 */

/** @param {HTMLElement[]} children */
function row(...children) {
  return make('div', { class: 'row' }, ...children);
}

export class Controls {
  /**
   * @param {Place} place
   * @param {ShownChannels} channels
   * @param {Flight} flight
   * @param {Actions} actions
   */
  constructor(place, channels, flight, actions) {
    this._place = place;
    this._channels = channels;
    this._flight = flight;
    this._actions = actions;
    this._held = ''; // the key that flies
    this._slider = make('input', { type: 'range', 'aria-label': 'Slice', step: 1 });
    this._axis = make('span', { class: 'axis' });
    this._inputs = ['x', 'y', 'z'].map((name, axis) => this._coordinate(name, axis));
    this._time = make('input', { type: 'range', 'aria-label': 'Time point', step: 1 });
    this._timeShown = make('output', {});
    this._neuroglancer = make('a', { class: 'button', href: '' }, 'Open here in Neuroglancer');
    element('controls').append(...this._sections());
    this._listen();
    this.update();
  }

  _sections() {
    const { volume } = this._place;
    const last = Math.max(...volume.channels.map((one) => one.time[1]));
    const first = Math.min(...volume.channels.map((one) => one.time[0]));
    [this._time.min, this._time.max] = [String(first), String(last)];
    const times = last > first ? [make('section', {}, make('h2', {}, 'Time '), row(this._time, this._timeShown))] : [];
    return [
      make('section', {}, make('h2', {}, 'Slice ', this._axis),
        row(this._stepper('−', -1, 'The slice before'), this._slider, this._stepper('+', 1, 'The next slice')),
        make('div', { class: 'coordinates' }, ...this._inputs.map((input, n) => make('label', {}, 'xyz'[n], input))),
        this._layouts()),
      ...times,
      make('section', {}, make('h2', {}, 'Channels'), ...this._channels.all.map((one) => this._channel(one))),
      make('section', {}, make('h2', {}, 'This place'), this._places()),
      make('details', { class: 'keys' }, make('summary', {}, 'Keys'),
        make('dl', {}, ...KEYS.map(([key, what]) => make('div', {}, make('dt', {}, key), make('dd', {}, what))))),
    ];
  }

  /**
   * @param {string} name
   * @param {number} axis
   */
  _coordinate(name, axis) {
    const { offset, size } = this._place.volume;
    const input = make('input', {
      type: 'number', min: offset[axis], max: offset[axis] + size[axis] - 1, 'aria-label': `Voxel along ${name}`,
    });
    input.addEventListener('change', () => {
      if (input.value !== '') this._place.goTo(axis, Number(input.value));
    });
    return input;
  }

  /**
   * A button that goes on by a slice, and flies while it is held.
   * @param {string} sign
   * @param {number} by
   * @param {string} label
   */
  _stepper(sign, by, label) {
    const button = make('button', { type: 'button', class: 'step', 'aria-label': label }, sign);
    button.addEventListener('pointerdown', (event) => {
      if (event.button === 0) this._flight.start(by);
    });
    for (const name of ['pointerup', 'pointercancel', 'pointerleave']) {
      button.addEventListener(name, () => this._flight.stop());
    }
    button.addEventListener('click', (event) => {
      if (event.detail === 0) this._place.step(by); // by the keyboard
    });
    button.addEventListener('contextmenu', (event) => event.preventDefault());
    return button;
  }

  _layouts() {
    const choice = make('fieldset', { class: 'choice' }, make('legend', { class: 'hidden' }, 'Plane'));
    for (const layout of LAYOUTS) {
      const input = make('input', { type: 'radio', name: 'layout', value: layout });
      input.addEventListener('change', () => this._choose(layout));
      choice.append(make('label', {}, input, make('span', {}, LAYOUT_NAMES[layout])));
    }
    return choice;
  }

  /** @param {string} layout */
  _choose(layout) {
    this._place.set({ layout, active: PLANES.includes(layout) ? layout : this._place.active });
  }

  /** @param {ShownChannel} one */
  _channel(one) {
    const { name, kind, about } = one.channel;
    const visible = make('input', { type: 'checkbox' });
    visible.checked = one.visible;
    visible.addEventListener('change', () => this._channels.set(one, { visible: visible.checked }));
    const sliders = [this._share(one, 'opacity', 'Opacity')];
    if (kind === 'grey') {
      sliders.push(this._share(one, 'low', 'Black at'), this._share(one, 'high', 'White at'), this._colour(one));
    }
    const more = make('details', {}, make('summary', {}, 'Looks'), ...sliders);
    return make('div', { class: 'channel' },
      make('label', { class: 'name' }, visible, make('span', {}, name), make('small', {}, about)), more);
  }

  /**
   * @param {ShownChannel} one
   * @param {'opacity' | 'low' | 'high'} key
   * @param {string} label
   */
  _share(one, key, label) {
    const input = make('input', { type: 'range', min: 0, max: 1, step: 0.004 });
    input.value = String(one[key]);
    input.addEventListener('input', () => {
      let value = Number(input.value);
      if (key === 'low') value = Math.min(value, one.high - 0.004);
      if (key === 'high') value = Math.max(value, one.low + 0.004);
      this._channels.set(one, { [key]: value });
    });
    return make('label', { class: 'share' }, label, input);
  }

  /** @param {ShownChannel} one */
  _colour(one) {
    const select = make('select', {}, ...COLOURS.map((name) => make('option', { value: name }, name)));
    select.value = one.colour;
    select.addEventListener('change', () => this._channels.set(one, { colour: select.value }));
    return make('label', { class: 'share' }, 'Colour', select);
  }

  _places() {
    const link = make('button', { type: 'button' }, 'Copy link');
    link.addEventListener('click', () => copy(this._actions.link(), link));
    const tile = make('button', { type: 'button' }, 'Copy address of this tile');
    tile.addEventListener('click', () => {
      const address = this._actions.tile();
      if (address) void copy(address, tile);
      else announce(tile, 'No tile is in the middle');
    });
    const catmaid = make('a', { class: 'button', href: this._actions.catmaid }, 'Values for CATMAID');
    return make('div', { class: 'actions' }, link, tile, ...(this._actions.neuroglancer() ? [this._neuroglancer] : []), catmaid);
  }

  _listen() {
    this._slider.addEventListener('input', () => {
      this._place.goTo(axesOf(this._place.active)[2], Number(this._slider.value));
    });
    this._time.addEventListener('input', () => this._place.set({ time: Number(this._time.value) }));
    addEventListener('keydown', (event) => this._keyDown(event));
    addEventListener('keyup', (event) => {
      if (event.code === this._held) this._flight.stop(); // its character may be another one by now
    });
    for (const name of ['blur', 'visibilitychange']) addEventListener(name, () => this._flight.stop());
    this._neuroglancer.addEventListener('focus', () => { this._neuroglancer.href = this._actions.neuroglancer(); });
    this._neuroglancer.addEventListener('pointerenter', () => { this._neuroglancer.href = this._actions.neuroglancer(); });
  }

  /** @param {KeyboardEvent} event */
  _keyDown(event) {
    const typing = event.target instanceof HTMLElement && event.target.matches('input[type=number], input[type=search], textarea');
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = STEPS[event.key] ?? (event.shiftKey ? STEPS[event.code] : undefined);
    const layout = ['1', '2', '3', '4'].indexOf(event.key);
    if (by) {
      event.preventDefault();
      this._held = event.code;
      if (!event.repeat) this._flight.start(by * (event.shiftKey ? 10 : 1));
    } else if (layout >= 0 && !(event.target instanceof HTMLSelectElement)) {
      this._choose(LAYOUTS[layout]);
    }
  }

  /** Show the place. */
  update() {
    const { active, layout, voxel, time } = this._place;
    const axis = axesOf(active)[2];
    const [first, end] = this._place.slices(active);
    Object.assign(this._slider, { min: String(first), max: String(end - 1), value: String(voxel[axis]) });
    this._slider.disabled = end - first < 2;
    this._axis.textContent = `${'xyz'[axis]} = ${voxel[axis]}`;
    this._inputs.forEach((input, n) => {
      if (document.activeElement !== input) input.value = String(voxel[n]);
    });
    for (const input of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll('input[name=layout]'))) {
      input.checked = input.value === layout;
    }
    this._time.value = String(time);
    this._timeShown.value = String(time);
    this._neuroglancer.href = this._actions.neuroglancer();
  }
}
