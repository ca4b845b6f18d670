/**
 * The pictures of tiles: fetched and decoded in the order in which they are wanted, and kept.
 * @module
 */

const MOST_KEPT = 256; // each takes up to a megabyte
const MOST_WANTED = 192; // so that nothing that is wanted makes room for something else that is
const AT_ONCE = 8;
const PATIENCE = 400; // milliseconds for a request that nobody wants any more
const TRIES = 4;

/** @typedef {{bitmap: ImageBitmap} | {failure: string}} Picture */

/** All pictures. */
export class Pictures {
  /**
   * @param {string} up the way to the gateway's root
   * @param {() => void} changed called when a picture has arrived or failed
   */
  constructor(up, changed) {
    this._up = up;
    this._changed = changed;
    /** the least recently used first @type {Map<string, Picture>} */
    this._kept = new Map();
    /** @type {Map<string, {began: number, abort: AbortController}>} */
    this._loading = new Map();
    /** how often a picture that has failed was asked for again @type {Map<string, number>} */
    this._tries = new Map();
    /** by whoever wants them, the most urgent first @type {Map<object, string[]>} */
    this._lists = new Map();
    /** of all of them, the most urgent first @type {Set<string>} */
    this._wanted = new Set();
  }

  /**
   * Return a picture; null where there is none yet, or it has failed.
   * @param {string} path
   */
  get(path) {
    const found = this._kept.get(path);
    if (!found) return null;
    this._kept.delete(path);
    this._kept.set(path, found);
    return 'bitmap' in found ? found.bitmap : null;
  }

  /**
   * Return whether a picture is there, or has failed.
   * @param {string} path
   */
  has(path) {
    return this._kept.has(path);
  }

  /**
   * Return why a picture has failed; empty where it has not.
   * @param {string} path
   */
  failure(path) {
    const found = this._kept.get(path);
    return found && 'failure' in found ? found.failure : '';
  }

  /**
   * Say which pictures are wanted now, the most urgent first. An earlier list of the same owner is forgotten.
   * @param {object} owner whoever wants them
   * @param {string[]} paths
   */
  want(owner, paths) {
    if (paths.length) this._lists.set(owner, paths);
    else this._lists.delete(owner);
    const lists = [...this._lists.values()];
    const longest = Math.max(0, ...lists.map((list) => list.length));
    this._wanted.clear();
    for (let n = 0; n < longest && this._wanted.size < MOST_WANTED; n += 1) {
      for (const list of lists) {
        if (n < list.length) this._wanted.add(list[n]);
      }
    }
    const now = performance.now();
    for (const [path, { began, abort }] of this._loading) {
      if (!this._wanted.has(path) && now - began > PATIENCE) abort.abort();
    }
    this._load();
  }

  /** Ask again for all that has failed. */
  retry() {
    this._tries.clear();
    for (const [path, picture] of this._kept) {
      if ('failure' in picture) this._kept.delete(path);
    }
    this._changed();
  }

  _load() {
    for (const path of this._wanted) {
      if (this._loading.size >= AT_ONCE) return;
      if (!this._kept.has(path) && !this._loading.has(path)) void this._fetch(path);
    }
  }

  /** @param {string} path */
  async _fetch(path) {
    const abort = new AbortController();
    this._loading.set(path, { began: performance.now(), abort });
    let again = 0;
    try {
      const answer = await fetch(this._up + path, { signal: abort.signal });
      if (answer.ok) {
        this._keep(path, { bitmap: await createImageBitmap(await answer.blob()) });
        this._tries.delete(path);
      } else {
        again = 1000 * Number(answer.headers.get('retry-after') ?? 0);
        this._keep(path, { failure: reason(answer.status) });
      }
    } catch (error) {
      if (!abort.signal.aborted) {
        again = 2000;
        this._keep(path, { failure: 'the gateway does not answer' });
      }
    }
    this._loading.delete(path);
    const tries = this._tries.get(path) ?? 0;
    if (again && tries < TRIES) {
      this._tries.set(path, tries + 1);
      setTimeout(() => this._again(path), again * 2 ** tries);
    }
    this._changed();
    this._load();
  }

  /**
   * Forget that a picture has failed: if it is still wanted, it is asked for in its turn.
   * @param {string} path
   */
  _again(path) {
    if (!this.failure(path)) return;
    this._kept.delete(path);
    this._load();
  }

  /**
   * @param {string} path
   * @param {Picture} picture
   */
  _keep(path, picture) {
    this._kept.set(path, picture);
    for (const [old, kept] of this._kept) {
      if (this._kept.size <= MOST_KEPT) break;
      if (this._wanted.has(old)) continue;
      if ('bitmap' in kept) kept.bitmap.close();
      this._kept.delete(old);
    }
  }
}

/** @param {number} status */
function reason(status) {
  switch (status) {
    case 403: return 'you may not see it';
    case 404: return 'there is no such tile';
    case 503: return 'the upstream does not answer';
    case 504: return 'the upstream is too slow';
    default: return `the gateway answers ${status}`;
  }
}
