/**
 * Where the tiles of a slice are. Lengths are nanometres (nm); where the dataset has no unit they are something else of
 * which only the ratios have a meaning.
 * @module
 */

/** @typedef {[number, number, number]} Triple */

/**
 * A plane of a channel, as CATMAID's stacks have it. Triples are columns, rows, slices.
 * @typedef {object} Plane
 * @property {string} base the path before a tile's own, relative to the gateway's root
 * @property {Triple} dimension pixels and slices of level 0
 * @property {Triple} resolution nm of a pixel and a slice of level 0
 * @property {Triple[]} factors by level: pixels and slices of level 0 that one stands for
 */

/**
 * @typedef {object} Channel
 * @property {string} name
 * @property {'grey' | 'labels' | 'colours'} kind
 * @property {string} about
 * @property {[number, number]} time the first and the last time point
 * @property {number} finest the finest level that holds data
 * @property {Record<string, Plane>} planes by name
 */

/**
 * What the page knows of a dataset. Triples are x, y, z.
 * @typedef {object} Volume
 * @property {string} token
 * @property {Triple} offset the first voxel
 * @property {Triple} size voxels
 * @property {Triple} voxel nm of a voxel
 * @property {boolean} nanometres whether they are
 * @property {Channel[]} channels
 * @property {string | null} shown the channel that is shown first
 * @property {boolean} neuroglancer whether it can be opened there
 */

/**
 * A part of a plane that is seen.
 * @typedef {object} View
 * @property {number} left nm from the volume's start to the left edge
 * @property {number} top nm from the volume's start to the upper edge
 * @property {number} width pixels of the screen
 * @property {number} height
 * @property {number} scale nm of one of these pixels
 */

/**
 * A tile, and where it is in a view.
 * @typedef {object} PlacedTile
 * @property {string} path relative to the gateway's root
 * @property {number} x pixels of the screen from the left edge
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {number} columns pixels of the tile that are inside the volume
 * @property {number} rows
 */

const TILE = 512;
const NAMES = { xy: [0, 1, 2], xz: [0, 2, 1], zy: [2, 1, 0] };

/**
 * Return the axes of columns, rows and slices.
 * @param {string} plane
 * @returns {Triple}
 */
export function axesOf(plane) {
  const found = NAMES[/** @type {keyof typeof NAMES} */ (plane)] ?? NAMES.xy;
  return /** @type {Triple} */ (found);
}

/**
 * Return the level whose pixels come closest to those of the screen.
 * @param {Plane} plane
 * @param {number} finest the finest level that holds data
 * @param {number} scale nm of a pixel of the screen
 */
export function levelFor(plane, finest, scale) {
  let best = Math.min(finest, plane.factors.length - 1);
  let distance = Infinity;
  for (let level = best; level < plane.factors.length; level += 1) {
    const size = plane.resolution[0] * plane.factors[level][0];
    const off = Math.abs(Math.log2(size / scale));
    if (off < distance) [best, distance] = [level, off];
  }
  return best;
}

/**
 * Return the tiles of a slice at a level that are seen.
 * @param {Plane} plane
 * @param {number} level
 * @param {number} slice counted absolutely, at level 0
 * @param {number | null} time the time point; null for a channel without any
 * @param {View} view
 * @returns {PlacedTile[]}
 */
export function tilesIn(plane, level, slice, time, view) {
  const [fc, fr, fs] = plane.factors[level];
  const columns = Math.ceil(plane.dimension[0] / fc);
  const rows = Math.ceil(plane.dimension[1] / fr);
  const width = (plane.resolution[0] * fc) / view.scale; // of a pixel of the tile, on the screen
  const height = (plane.resolution[1] * fr) / view.scale;
  const left = view.left / view.scale;
  const top = view.top / view.scale;
  const [c0, c1] = span(left, view.width, width, columns);
  const [r0, r1] = span(top, view.height, height, rows);
  const begin = `${plane.base}${time === null ? '' : `${time}/`}${Math.floor(slice / fs)}/`;
  const found = [];
  for (let row = r0; row < r1; row += 1) {
    for (let col = c0; col < c1; col += 1) {
      const inside = [Math.min(TILE, columns - col * TILE), Math.min(TILE, rows - row * TILE)];
      found.push({
        path: `${begin}${row}_${col}_${level}.png`,
        x: col * TILE * width - left,
        y: row * TILE * height - top,
        width: inside[0] * width,
        height: inside[1] * height,
        columns: inside[0],
        rows: inside[1],
      });
    }
  }
  return found;
}

/**
 * Return the first tile along one axis that is seen, and the one after the last.
 * @param {number} start where the view begins, in pixels of the screen from the volume's start
 * @param {number} seen pixels of the screen
 * @param {number} pixel pixels of the screen that one of the tile takes
 * @param {number} count pixels of the volume
 * @returns {[number, number]}
 */
function span(start, seen, pixel, count) {
  const tile = TILE * pixel;
  const first = Math.max(0, Math.floor(start / tile));
  const last = Math.min(Math.ceil(count / TILE), Math.ceil((start + seen) / tile));
  return [first, Math.max(first, last)];
}
