/**
 * One channel in one plane, drawn on a canvas of its own within Leaflet's map.
 *
 * Leaflet's own layers make an element for each tile, which cannot be exchanged 24 times a second. Here a slice is drawn
 * as a whole, out of pictures that are decoded already; where one is missing, coarser ones of the same slice stand in.
 * @module
 */

import { levelFor, tilesIn } from './geometry.js';

/** @typedef {import('./geometry.js').View} View */
/** @typedef {import('./geometry.js').Plane} Plane */
/** @typedef {import('./geometry.js').PlacedTile} PlacedTile */
/** @typedef {import('./channels.js').ShownChannel} ShownChannel */
/** @typedef {import('./pictures.js').Pictures} Pictures */

const CRISP_FROM = 1.5; // pixels of the screen for one of a tile, from which on they are not smoothed

/** What of a slice is seen. @typedef {{tiles: PlacedTile[], coarsest: PlacedTile[]}} Needed */

export class SliceLayer extends L.Layer {
  /**
   * @param {ShownChannel} shown
   * @param {Plane} plane
   * @param {Pictures} pictures
   */
  constructor(shown, plane, pictures) {
    super();
    this.shown = shown;
    this._plane = plane;
    this._pictures = pictures;
    this._canvas = document.createElement('canvas');
    this._canvas.className = 'slice';
  }

  /** @param {L.Map} map */
  onAdd(map) {
    map.getPane('tilePane')?.append(this._canvas);
    return this;
  }

  onRemove() {
    this._canvas.remove();
    return this;
  }

  /**
   * Return the tiles of a slice that are seen.
   * @param {View} view
   * @param {number} slice
   * @param {number} time
   * @returns {Needed}
   */
  needed(view, slice, time) {
    const { finest } = this.shown.channel;
    const level = levelFor(this._plane, finest, view.scale / devicePixelRatio);
    const coarsest = this._plane.factors.length - 1;
    return {
      tiles: this._tiles(level, view, slice, time),
      coarsest: coarsest > level ? this._tiles(coarsest, view, slice, time) : [],
    };
  }

  /**
   * @param {number} level
   * @param {View} view
   * @param {number} slice
   * @param {number} time
   */
  _tiles(level, view, slice, time) {
    const [first, last] = this.shown.channel.time;
    const at = last > first ? Math.min(last, Math.max(first, time)) : null;
    return tilesIn(this._plane, level, slice, at, view);
  }

  /**
   * Draw a slice as far as its pictures are there.
   * @param {L.Map} map
   * @param {View} view
   * @param {number} slice
   * @param {number} time
   * @param {boolean} isLowest whether nothing is below this layer
   * @returns {boolean} whether all of it is there
   */
  draw(map, view, slice, time, isLowest) {
    const context = this._prepare(map, view);
    const { finest } = this.shown.channel;
    const level = levelFor(this._plane, finest, view.scale / devicePixelRatio);
    const tiles = this._tiles(level, view, slice, time);
    const complete = tiles.every((tile) => this._pictures.get(tile.path));
    const coarsest = complete ? level : this._plane.factors.length - 1;
    for (let shown = coarsest; shown > level; shown -= 1) {
      for (const tile of this._tiles(shown, view, slice, time)) this._put(context, tile);
    }
    for (const tile of tiles) {
      if (!this._put(context, tile) && this._pictures.failure(tile.path)) hatch(context, tile);
    }
    this._canvas.style.opacity = String(this.shown.opacity);
    this._canvas.style.filter = this.shown.filter;
    this._canvas.style.mixBlendMode = this.shown.channel.kind === 'grey' && !isLowest ? 'plus-lighter' : 'normal';
    return complete;
  }

  /**
   * Return the canvas, empty and in its place.
   * @param {L.Map} map
   * @param {View} view
   */
  _prepare(map, view) {
    const canvas = this._canvas;
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      canvas.style.width = `${view.width}px`;
      canvas.style.height = `${view.height}px`;
    }
    L.DomUtil.setPosition(canvas, map.containerPointToLayerPoint([0, 0]));
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    return context;
  }

  /**
   * Draw a tile if its picture is there.
   * @param {CanvasRenderingContext2D} context
   * @param {PlacedTile} tile
   */
  _put(context, tile) {
    const bitmap = this._pictures.get(tile.path);
    if (!bitmap) return false;
    // On whole pixels, so that no seam shows between two tiles.
    const [x0, y0] = [Math.round(tile.x), Math.round(tile.y)];
    const [x1, y1] = [Math.round(tile.x + tile.width), Math.round(tile.y + tile.height)];
    const isLabels = this.shown.channel.kind === 'labels';
    context.imageSmoothingEnabled = !isLabels && tile.width / tile.columns < CRISP_FROM;
    if (isLabels) context.clearRect(x0, y0, x1 - x0, y1 - y0); // a coarser one would show through
    context.drawImage(bitmap, 0, 0, tile.columns, tile.rows, x0, y0, x1 - x0, y1 - y0);
    const colour = this.shown.channel.kind === 'grey' ? COLOUR_VALUES[this.shown.colour] : undefined;
    if (colour) {
      context.globalCompositeOperation = 'multiply'; // twice is the same as once, where tiles of two levels meet
      context.fillStyle = colour;
      context.fillRect(x0, y0, x1 - x0, y1 - y0);
      context.globalCompositeOperation = 'source-over';
    }
    return true;
  }
}

/** @type {Record<string, string>} */
const COLOUR_VALUES = {
  red: '#f00', green: '#0f0', blue: '#00f', cyan: '#0ff', magenta: '#f0f', yellow: '#ff0',
};

/**
 * Mark a tile that has failed.
 * @param {CanvasRenderingContext2D} context
 * @param {PlacedTile} tile
 */
function hatch(context, tile) {
  context.save();
  context.beginPath();
  context.rect(tile.x, tile.y, tile.width, tile.height);
  context.clip();
  context.strokeStyle = 'rgba(235, 120, 90, 0.55)';
  context.lineWidth = 2;
  context.beginPath();
  for (let at = -tile.height; at < tile.width; at += 18) {
    context.moveTo(tile.x + at, tile.y + tile.height);
    context.lineTo(tile.x + at + tile.height, tile.y);
  }
  context.stroke();
  context.restore();
}
