/** How each channel is shown. @module */

/** @typedef {import('./geometry.js').Volume} Volume */
/** @typedef {import('./geometry.js').Channel} Channel */

export const COLOURS = ['grey', 'red', 'green', 'blue', 'cyan', 'magenta', 'yellow'];

/** One channel, and how it is shown. */
export class ShownChannel {
  /**
   * @param {Channel} channel
   * @param {boolean} visible
   */
  constructor(channel, visible) {
    this.channel = channel;
    this.visible = visible;
    /** 0 to 1 */
    this.opacity = channel.kind === 'labels' ? 0.4 : 1;
    /** the shares of white that are shown as black and as white */
    this.low = 0;
    this.high = 1;
    this.colour = 'grey';
  }

  /** The contrast as a filter of CSS; empty where it is that of the tiles. */
  get filter() {
    if (this.channel.kind !== 'grey' || (this.low === 0 && this.high === 1)) return '';
    const slope = 1 / Math.max(0.004, this.high - this.low);
    // brightness(b) contrast(c) makes c * b * v + (1 - c) / 2 of a value v, which is to be slope * (v - low).
    const contrast = 1 + 2 * this.low * slope;
    return `brightness(${slope / contrast}) contrast(${contrast})`;
  }
}

/**
 * All channels. It sends the event "change" after each change.
 */
export class ShownChannels extends EventTarget {
  /** @param {Volume} volume */
  constructor(volume) {
    super();
    const first = volume.channels.find((one) => one.name === volume.shown) ?? volume.channels[0];
    /** in the order in which they are drawn: labels over pictures */
    this.all = [...volume.channels]
      .sort((one, other) => Number(one.kind === 'labels') - Number(other.kind === 'labels'))
      .map((one) => new ShownChannel(one, one === first));
  }

  /** @returns {ShownChannel[]} */
  get visible() {
    return this.all.filter((one) => one.visible);
  }

  /**
   * Change how a channel is shown.
   * @param {ShownChannel} one
   * @param {Partial<Pick<ShownChannel, 'visible' | 'opacity' | 'low' | 'high' | 'colour'>>} change
   */
  set(one, change) {
    Object.assign(one, change);
    this.dispatchEvent(new Event('change'));
  }
}
