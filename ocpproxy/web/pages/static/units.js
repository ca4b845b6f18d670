/** Numbers for people. @module */

const BYTES = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
const LENGTHS = /** @type {[string, number][]} */ ([['nm', 1], ['µm', 1e3], ['mm', 1e6]]);

/** @param {number} value */
function bytes(value) {
  let power = 0;
  let size = Math.abs(value);
  while (size >= 1024 && power < BYTES.length - 1) {
    size /= 1024;
    power += 1;
  }
  const digits = power === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${value < 0 ? '−' : ''}${size.toFixed(digits)} ${BYTES[power]}`;
}

/** @param {number} value */
function plain(value) {
  return value.toLocaleString('en', { maximumFractionDigits: Math.abs(value) < 10 ? 1 : 0 });
}

/**
 * Return a number with its unit.
 * @param {number | null | undefined} value
 * @param {string} unit as `figures.Figure` has it
 */
export function shown(value, unit) {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  switch (unit) {
    case 'bytes': return bytes(value);
    case 'bytes per second': return `${bytes(value)}/s`;
    case 'per second': return `${plain(value)}/s`;
    case 'share': return `${(100 * value).toFixed(1)} %`;
    case 'seconds': return seconds(value);
    case 'switch': return value ? 'available' : 'unavailable';
    default: return value.toLocaleString('en', { maximumFractionDigits: 0 });
  }
}

/** @param {number} value */
function seconds(value) {
  if (value < 1) return `${(1000 * value).toFixed(0)} ms`;
  if (value < 120) return `${value.toFixed(1)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

/**
 * Return a length.
 * @param {number} nm nanometres
 * @param {boolean} known whether they are; else they are voxels
 */
export function length(nm, known) {
  if (!known) return `${plain(nm)} voxels`;
  const [unit, scale] = LENGTHS.findLast(([, size]) => nm >= size) ?? LENGTHS[0];
  return `${Number((nm / scale).toPrecision(4))} ${unit}`;
}

/**
 * Return the time of day.
 * @param {number} at seconds since 1970
 */
export function clock(at) {
  return new Date(1000 * at).toLocaleTimeString('en-GB');
}

/**
 * Return a day and a time.
 * @param {number} at seconds since 1970; 0 where it is not known
 */
export function date(at) {
  return at ? new Date(1000 * at).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' }) : '–';
}
