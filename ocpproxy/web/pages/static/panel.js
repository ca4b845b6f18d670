/** One plane on the screen: a map of Leaflet whose middle is the place. @module */

import { axesOf } from './geometry.js';
import { element, make } from './page.js';
import { SliceLayer } from './slice_layer.js';
import { length } from './units.js';

/** @typedef {import('./geometry.js').View} View */
/** @typedef {import('./place.js').Place} Place */
/** @typedef {import('./channels.js').ShownChannels} ShownChannels */
/** @typedef {import('./pictures.js').Pictures} Pictures */
/** @typedef {import('./slice_layer.js').Needed} Needed */

const AHEAD = 10; // slices that are decoded before they are shown
const NAMES = /** @type {Record<string, string>} */ ({ xy: 'x–y', xz: 'x–z', zy: 'z–y' });
const MAX_ZOOM = 8; // a voxel takes 256 pixels
const BAR = 110; // pixels that a scale bar has at most

export class Panel {
  /**
   * @param {string} plane
   * @param {Place} place
   * @param {ShownChannels} channels
   * @param {Pictures} pictures
   */
  constructor(plane, place, channels, pictures) {
    this.plane = plane;
    this._place = place;
    this._channels = channels;
    this._pictures = pictures;
    /** the slices that were shown whole, one after the other */
    this.shownSlices = 0;
    this._lastShown = '';
    this._moving = false;
    this._isOpen = false;
    this._ahead = 0;
    this._lastSlice = NaN;
    this._map = /** @type {L.Map} */ (/** @type {unknown} */ (null));
    /** @type {SliceLayer[]} */
    this._layers = [];
    this._bar = make('div', { class: 'bar' });
    this._pointer = make('output', { class: 'pointer', 'aria-label': 'Voxel under the pointer' });
    this._container = make('div', { class: 'map', tabindex: 0, role: 'application',
      'aria-label': `Slices in the plane ${plane}. Arrow keys move, plus and minus zoom, comma and full stop change the slice.` });
    this.element = make('section', { class: 'panel', 'aria-label': `Plane ${plane}` },
      this._container,
      make('div', { class: 'overlay' }, make('span', { class: 'plane' }, NAMES[plane]),
        this._bar, make('span', { class: 'waiting' }, 'loading'), this._pointer),
      make('div', { class: 'cross', 'aria-hidden': 'true' }));
  }

  /** Put it on the page. */
  open() {
    element('panels').append(this.element);
    const map = this._map = L.map(this._container, {
      crs: L.CRS.Simple, attributionControl: false, zoomControl: false, zoomSnap: 0, zoomDelta: 0.5,
      wheelPxPerZoomLevel: 100, zoomAnimation: false, fadeAnimation: false, keyboardPanDelta: 120,
      minZoom: this._zoomOf(this._largest() / 60), maxZoom: MAX_ZOOM, bounceAtZoomLimits: false,
    });
    this._layers = this._channels.all
      .filter((one) => one.channel.planes[this.plane])
      .map((one) => new SliceLayer(one, one.channel.planes[this.plane], this._pictures));
    const finest = this._unit / 2 ** MAX_ZOOM;
    this._place.scale = Math.min(this._largest() / 60, Math.max(finest, this._place.scale || this._fitting()));
    this.follow();
    map.on('move zoom', () => this._moved());
    map.on('mousemove', (event) => this._point(event.containerPoint));
    map.on('mouseout', () => { this._pointer.value = ''; });
    for (const event of ['pointerdown', 'focusin']) {
      this.element.addEventListener(event, () => {
        if (this._place.active !== this.plane) this._place.set({ active: this.plane });
      });
    }
  }

  /** Take it off the page. */
  close() {
    this._pictures.want(this, []);
    this._map.remove();
    this.element.remove();
  }

  /** Note that it has another size. */
  resized() {
    this._map.invalidateSize({ pan: false });
    this.follow();
  }

  /** Focus it, so that keys reach it. */
  focus() {
    // No ring: nobody has used the keyboard yet.
    this._container.focus(/** @type {FocusOptions} */ ({ preventScroll: true, focusVisible: false }));
  }

  // -- between the map and the place

  get _unit() {
    return Math.min(...this._place.volume.voxel);
  }

  /** @param {number} scale */
  _zoomOf(scale) {
    return Math.log2(this._unit / scale);
  }

  _lengths() {
    const { size, voxel } = this._place.volume;
    const [columns, rows] = axesOf(this.plane);
    return [size[columns] * voxel[columns], size[rows] * voxel[rows]];
  }

  _largest() {
    return Math.max(...this._place.volume.size.map((size, axis) => size * this._place.volume.voxel[axis]));
  }

  /** The scale at which the whole slice is seen. */
  _fitting() {
    const [width, height] = this._lengths();
    return Math.max(width / this._container.clientWidth, height / this._container.clientHeight);
  }

  /** Show the place. */
  follow() {
    if (this._moving) return;
    const [columns, rows] = axesOf(this.plane);
    const { point, scale } = this._place;
    const centre = this._isOpen ? this._map.getCenter() : { lat: NaN, lng: NaN };
    const off = Math.hypot(centre.lng * this._unit - point[columns], -centre.lat * this._unit - point[rows]) / scale;
    const isThere = off < 0.01 && Math.abs(this._map.getZoom() - this._zoomOf(scale)) < 1e-6;
    if (isThere) return; // setting it again would end a drag
    this._moving = true;
    this._map.setView([-point[rows] / this._unit, point[columns] / this._unit], this._zoomOf(scale), { animate: false });
    this._isOpen = true;
    this._moving = false;
  }

  _moved() {
    if (this._moving) return;
    this._moving = true;
    const centre = this._map.getCenter();
    const [columns, rows] = axesOf(this.plane);
    const point = /** @type {import('./geometry.js').Triple} */ ([...this._place.point]);
    point[columns] = centre.lng * this._unit;
    point[rows] = -centre.lat * this._unit;
    this._place.set({ point, scale: this._unit / 2 ** this._map.getZoom() });
    this._moving = false;
  }

  /** @returns {View} */
  _view() {
    const { x: width, y: height } = this._map.getSize();
    const scale = this._unit / 2 ** this._map.getZoom();
    const centre = this._map.getCenter();
    return {
      left: centre.lng * this._unit - (width / 2) * scale,
      top: -centre.lat * this._unit - (height / 2) * scale,
      width, height, scale,
    };
  }

  // -- drawing

  /** Draw the slice, and ask for what is missing and for what comes next. */
  draw() {
    const view = this._view();
    if (!view.width || !view.height) return;
    const slice = this._place.slice(this.plane);
    if (slice !== this._lastSlice) this._ahead = Math.sign(slice - this._lastSlice) || 0;
    this._lastSlice = slice;
    let complete = true;
    let lowest = true;
    for (const layer of this._layers) {
      if (layer.shown.visible) {
        if (!this._map.hasLayer(layer)) layer.addTo(this._map);
        complete = layer.draw(this._map, view, slice, this._place.time, lowest) && complete;
        lowest = false;
      } else if (this._map.hasLayer(layer)) layer.remove();
    }
    this._pictures.want(this, this._wanted(view, slice));
    this._drawBar(view);
    const shown = `${slice} ${this._place.time}`;
    if (complete && shown !== this._lastShown) {
      this._lastShown = shown;
      this.shownSlices += 1;
    }
    this.element.classList.toggle('loading', !complete);
  }

  /**
   * Return the paths of the pictures that are wanted, the most urgent first.
   * @param {View} view
   * @param {number} slice
   */
  _wanted(view, slice) {
    const wanted = this._needed(view, slice);
    const coarsest = wanted.flatMap((one) => one.coarsest.map((tile) => tile.path));
    if (!this.shownSlices && coarsest.some((path) => !this._pictures.has(path))) return coarsest; // something to look at
    const paths = [...coarsest, ...wanted.flatMap((one) => one.tiles.map((tile) => tile.path))];
    const [first, end] = this._place.slices(this.plane);
    for (let n = 1; this._ahead && n <= AHEAD; n += 1) {
      const next = slice + n * this._ahead;
      if (next < first || next >= end) break;
      for (const one of this._needed(view, next)) paths.push(...one.tiles.map((tile) => tile.path));
    }
    return [...new Set(paths)];
  }

  /**
   * @param {View} view
   * @param {number} slice
   * @returns {Needed[]}
   */
  _needed(view, slice) {
    return this._layers.filter((one) => one.shown.visible).map((one) => one.needed(view, slice, this._place.time));
  }

  /**
   * Return whether a slice can be shown whole at once.
   * @param {number} slice
   */
  isReady(slice) {
    return this._needed(this._view(), slice).every(({ tiles }) => tiles.every(
      ({ path }) => this._pictures.has(path)));
  }

  /** Return why tiles that are seen have failed; empty where none has. */
  failures() {
    const needed = this._needed(this._view(), this._place.slice(this.plane));
    return new Set(needed.flatMap(({ tiles }) => tiles.map(({ path }) => this._pictures.failure(path)).filter(Boolean)));
  }

  /** Return the path of the tile in the middle, of the first channel that is seen. */
  middleTile() {
    const view = this._view();
    const [needed] = this._needed(view, this._place.slice(this.plane));
    const [x, y] = [view.width / 2, view.height / 2];
    const found = needed?.tiles.find((one) => one.x <= x && x < one.x + one.width && one.y <= y && y < one.y + one.height);
    return found?.path ?? '';
  }

  /** @param {View} view */
  _drawBar(view) {
    const most = view.scale * BAR;
    const power = 10 ** Math.floor(Math.log10(most));
    const whole = [5, 2, 1].map((n) => n * power).find((one) => one <= most) ?? power;
    this._bar.style.width = `${whole / view.scale}px`;
    this._bar.textContent = length(whole, this._place.volume.nanometres);
  }

  /** @param {L.Point} at */
  _point(at) {
    const view = this._view();
    const { offset, size, voxel } = this._place.volume;
    const [columns, rows, through] = axesOf(this.plane);
    const found = /** @type {number[]} */ ([]);
    found[columns] = offset[columns] + Math.floor((view.left + at.x * view.scale) / voxel[columns]);
    found[rows] = offset[rows] + Math.floor((view.top + at.y * view.scale) / voxel[rows]);
    found[through] = this._place.slice(this.plane);
    const isInside = found.every((one, axis) => one >= offset[axis] && one < offset[axis] + size[axis]);
    this._pointer.value = isInside ? `x ${found[0]}  y ${found[1]}  z ${found[2]}` : '';
  }
}
