/** The place and what is shown, in the address of the page. @module */

import { LAYOUTS, PLANES } from './place.js';
import { COLOURS } from './channels.js';

/** @typedef {import('./place.js').Place} Place */
/** @typedef {import('./channels.js').ShownChannels} ShownChannels */

const EVERY = 250; // milliseconds: browsers refuse an address that changes all the time

/**
 * Take place and channels from the page's address. What makes no sense is left out.
 * @param {Place} place
 * @param {ShownChannels} channels
 */
export function read(place, channels) {
  const query = new URLSearchParams(location.search);
  ['x', 'y', 'z'].forEach((name, axis) => {
    const value = number(query.get(name), -1e12, 1e12);
    if (value !== null) place.goTo(axis, Math.floor(value));
  });
  const scale = number(query.get('scale'), 1e-6, 1e12);
  const time = number(query.get('t'), 0, 1e9);
  const layout = query.get('plane') ?? '';
  if (scale !== null) place.set({ scale });
  if (time !== null) place.set({ time: Math.floor(time) });
  if (LAYOUTS.includes(layout)) place.set({ layout, active: PLANES.includes(layout) ? layout : 'xy' });
  const show = query.get('show');
  for (const one of channels.all) {
    if (show !== null) channels.set(one, { visible: show.split(',').includes(one.channel.name) });
    const look = (query.get(`look-${one.channel.name}`) ?? '').split(',');
    const [opacity, low, high] = look.slice(0, 3).map((part) => number(part, 0, 1));
    if (opacity === null || low === null || high === null || low === undefined || high === undefined || low >= high) continue;
    const colour = COLOURS.includes(look[3]) ? look[3] : 'grey';
    channels.set(one, { opacity, low, high, colour });
  }
}

/**
 * @param {string | null} text
 * @param {number} least
 * @param {number} most
 */
function number(text, least, most) {
  const value = text === null || text.trim() === '' ? NaN : Number(text);
  return value >= least && value <= most ? value : null;
}

/**
 * Return what comes after the question mark for a place.
 * @param {Place} place
 * @param {ShownChannels} channels
 */
export function write(place, channels) {
  const [x, y, z] = place.voxel;
  const query = new URLSearchParams({ x: String(x), y: String(y), z: String(z) });
  query.set('scale', String(Number(place.scale.toPrecision(6))));
  query.set('plane', place.layout);
  if (place.time) query.set('t', String(place.time));
  query.set('show', channels.visible.map((one) => one.channel.name).join(','));
  for (const one of channels.visible) {
    const look = [one.opacity, one.low, one.high].map((value) => Number(value.toFixed(3))).join(',');
    const isUsual = one.low === 0 && one.high === 1 && one.colour === 'grey' && one.opacity === (one.channel.kind === 'labels' ? 0.4 : 1);
    if (!isUsual) query.set(`look-${one.channel.name}`, `${look},${one.colour}`);
  }
  return query.toString().replaceAll('%2C', ',');
}

/** Keeps the page's address up to date. */
export class AddressBar {
  /**
   * @param {Place} place
   * @param {ShownChannels} channels
   */
  constructor(place, channels) {
    this._place = place;
    this._channels = channels;
    this._timer = 0;
    for (const source of [place, channels]) source.addEventListener('change', () => this._soon());
  }

  _soon() {
    this._timer ||= setTimeout(() => {
      this._timer = 0;
      history.replaceState(null, '', `?${write(this._place, this._channels)}`);
    }, EVERY);
  }
}
