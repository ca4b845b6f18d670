/**
 * Flying through slices while a key or a button is held.
 *
 * A slice is shown for at least 1/30 s, and the next one only when it is there, or late. So no slice is left out while
 * the gateway keeps up, and a slow one does not stop the flight.
 * @module
 */

const RATE = 30; // slices a second at most
const HELD_AFTER = 280; // milliseconds after which a key counts as held
const LATE = 400; // milliseconds that the next slice is waited for

export class Flight {
  /**
   * @param {(step: number) => boolean} step goes on by so many slices; returns false at the end
   * @param {(step: number) => boolean} isReady whether the slice that is so many further can be shown at once
   */
  constructor(step, isReady) {
    this._step = step;
    this._isReady = isReady;
    this._by = 0;
    this._due = 0;
    this._frame = 0;
  }

  /**
   * Go on by some slices, and then on and on until `stop`.
   * @param {number} by
   */
  start(by) {
    this._step(by);
    this._due = performance.now() + HELD_AFTER;
    this._by = by;
    cancelAnimationFrame(this._frame);
    this._frame = requestAnimationFrame((now) => this._fly(now));
  }

  /** Stay where it is. */
  stop() {
    this._by = 0;
  }

  /** @param {number} now */
  _fly(now) {
    if (!this._by) return;
    if (now >= this._due && (this._isReady(this._by) || now > this._due + LATE)) {
      if (!this._step(this._by)) this._by = 0;
      this._due = Math.max(this._due + 1000 / RATE, now - 1000 / RATE);
    }
    this._frame = requestAnimationFrame((next) => this._fly(next));
  }
}
