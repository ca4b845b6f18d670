/** Where the viewer is: one point that all planes share, how large things are, and when. @module */

import { axesOf } from './geometry.js';

/** @typedef {import('./geometry.js').Volume} Volume */
/** @typedef {import('./geometry.js').Triple} Triple */

export const PLANES = ['xy', 'xz', 'zy'];
export const LAYOUTS = [...PLANES, 'all'];

/** The place. It sends the event "change" after each change. */
export class Place extends EventTarget {
  /** @param {Volume} volume */
  constructor(volume) {
    super();
    this.volume = volume;
    /** nm from the volume's start, x y z @type {Triple} */
    this.point = /** @type {Triple} */ ([0, 0, 0]);
    /** nm of a pixel of the screen */
    this.scale = 0;
    this.time = 0;
    this.layout = 'xy';
    /** the plane that keys and slider move through */
    this.active = 'xy';
    volume.size.forEach((size, axis) => this.goTo(axis, volume.offset[axis] + Math.floor(size / 2)));
  }

  /** The voxel at the point, counted absolutely. @returns {Triple} */
  get voxel() {
    const { offset, size, voxel } = this.volume;
    return /** @type {Triple} */ (
      this.point.map((at, axis) => offset[axis] + Math.min(size[axis] - 1, Math.max(0, Math.floor(at / voxel[axis]))))
    );
  }

  /**
   * Change some of it.
   * @param {{point?: Triple, scale?: number, time?: number, layout?: string, active?: string}} change
   */
  set(change) {
    Object.assign(this, change);
    this.dispatchEvent(new Event('change'));
  }

  /**
   * Return the number of the slice in a plane, counted absolutely.
   * @param {string} plane
   */
  slice(plane) {
    return Math.max(this.slices(plane)[0], this.voxel[axesOf(plane)[2]]);
  }

  /**
   * Return the first slice of a plane, and the one after the last.
   * @param {string} plane
   * @returns {[number, number]}
   */
  slices(plane) {
    const axis = axesOf(plane)[2];
    const first = this.volume.offset[axis];
    const end = first + this.volume.size[axis];
    return [Math.min(Math.max(first, 0), end - 1), end]; // tiles have no numbers below 0
  }

  /**
   * Go to a voxel along one axis. Outside the volume the last one is meant.
   * @param {number} axis
   * @param {number} voxel counted absolutely
   */
  goTo(axis, voxel) {
    const { offset, size, voxel: edge } = this.volume;
    const number = Math.min(size[axis] - 1, Math.max(0, Math.round(voxel) - offset[axis]));
    const point = /** @type {Triple} */ ([...this.point]);
    point[axis] = (number + 0.5) * edge[axis];
    this.set({ point });
  }

  /**
   * Go on by some slices in the active plane.
   * @param {number} count
   * @returns {boolean} false at the end of the volume
   */
  step(count) {
    const before = this.slice(this.active);
    const [first, end] = this.slices(this.active);
    this.goTo(axesOf(this.active)[2], Math.min(end - 1, Math.max(first, before + count)));
    return this.slice(this.active) !== before;
  }
}
