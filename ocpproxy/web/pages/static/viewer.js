/** Slices of a dataset. @module */

import { AddressBar, read, write } from './address.js';
import { ShownChannels } from './channels.js';
import { Controls } from './controls.js';
import { Flight } from './flight.js';
import { dataBlock, element, make } from './page.js';
import { Panel } from './panel.js';
import { Pictures } from './pictures.js';
import { PLANES, Place } from './place.js';

/** @typedef {import('./geometry.js').Volume} Volume */

class Viewer {
  /**
   * @param {Volume} volume
   * @param {string} up the way to the gateway's root
   */
  constructor(volume, up) {
    this._volume = volume;
    this._root = new URL(up, location.href);
    this._pictures = new Pictures(up, () => this._changed());
    this._channels = new ShownChannels(volume);
    this.place = new Place(volume);
    read(this.place, this._channels);
    /** @type {Panel[]} */
    this._panels = [];
    this._frame = 0;
    this._layout = '';
    this._message = make('p', { class: 'message', role: 'status' });
    this._message.hidden = true;
    element('viewer').append(this._message);
    this._retry = make('button', { type: 'button' }, 'Try again');
    this._retry.addEventListener('click', () => this._pictures.retry());
    this._flight = new Flight((by) => this.place.step(by), (by) => this._isReady(by));
    this._controls = new Controls(this.place, this._channels, this._flight, {
      link: () => new URL(`?${write(this.place, this._channels)}`, location.href).href,
      neuroglancer: () => this._neuroglancer(),
      tile: () => {
        const path = this._active()?.middleTile();
        return path ? new URL(path, this._root).href : '';
      },
      catmaid: 'catmaid',
    });
    new AddressBar(this.place, this._channels);
    this._arrange();
    for (const source of [this.place, this._channels]) source.addEventListener('change', () => this._changed());
    new ResizeObserver(() => {
      for (const panel of this._panels) panel.resized();
      this._changed();
    }).observe(element('panels'));
    this._toggle();
    this._changed();
  }

  /** The slices that were shown whole so far. */
  get shownSlices() {
    return this._panels.reduce((sum, panel) => sum + panel.shownSlices, 0);
  }

  _active() {
    return this._panels.find((panel) => panel.plane === this.place.active) ?? this._panels[0];
  }

  /** @param {number} by */
  _isReady(by) {
    const { active } = this.place;
    const [first, end] = this.place.slices(active);
    const next = Math.min(end - 1, Math.max(first, this.place.slice(active) + by));
    return this._active()?.isReady(next) ?? true;
  }

  _neuroglancer() {
    if (!this._volume.neuroglancer) return '';
    const [x, y, z] = this.place.voxel;
    return new URL(`neuroglancer/${this._volume.token}?x=${x}&y=${y}&z=${z}`, this._root).href;
  }

  /** Put the panels of the layout on the page. */
  _arrange() {
    const { layout } = this.place;
    if (layout === this._layout) return;
    this._layout = layout;
    for (const panel of this._panels) panel.close();
    element('panels').dataset.layout = layout;
    const planes = layout === 'all' ? PLANES : [layout];
    this._panels = planes.map((plane) => new Panel(plane, this.place, this._channels, this._pictures));
    for (const panel of this._panels) panel.open();
    if (document.activeElement === document.body) this._active()?.focus(); // keys work at once
  }

  /** Draw all in the next frame. */
  _changed() {
    this._frame ||= requestAnimationFrame(() => {
      this._frame = 0;
      this._arrange();
      for (const panel of this._panels) panel.follow();
      for (const panel of this._panels) panel.draw();
      this._controls.update();
      this._report();
    });
  }

  /** Say what has failed. */
  _report() {
    const failures = new Set(this._panels.flatMap((panel) => [...panel.failures()]));
    this._message.hidden = !failures.size;
    const text = failures.size ? `Some tiles cannot be shown: ${[...failures].join('; ')}. ` : '';
    if (this._message.firstChild?.textContent !== text) this._message.replaceChildren(text, this._retry);
  }

  /** On a narrow screen the controls are behind a button. */
  _toggle() {
    const controls = element('controls');
    const button = make('button', { type: 'button', class: 'toggle', 'aria-expanded': 'false', 'aria-controls': 'controls' }, 'Controls');
    button.addEventListener('click', () => {
      const open = controls.classList.toggle('open');
      button.setAttribute('aria-expanded', String(open));
    });
    element('viewer').append(button);
  }
}

const viewer = new Viewer(dataBlock('volume'), element('viewer').dataset.up ?? '');
Object.assign(globalThis, { ocpproxy: viewer }); // for those who look at it in the browser's console
