/** What all pages need of the document. @module */

/**
 * Return an element that the page has.
 * @param {string} id
 */
export function element(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/**
 * Return the document of a block of JSON in the page.
 * @param {string} id
 */
export function dataBlock(id) {
  return JSON.parse(element(id).textContent ?? '');
}

/**
 * Make an element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name
 * @param {Record<string, string | number | boolean>} [attributes] a false one is left out
 * @param {...(Node | string)} children texts stay texts, whatever is in them
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(key, value === true ? '' : String(value));
  }
  made.append(...children);
  return made;
}

/**
 * Copy a text, and say so on the button for a moment.
 * @param {string} text
 * @param {HTMLElement} button
 */
export async function copy(text, button) {
  announce(button, (await copied(text)) ? 'Copied' : 'Select and copy it by hand');
}

/**
 * Put other words on a button for a moment.
 * @param {HTMLElement} button
 * @param {string} text
 */
export function announce(button, text) {
  const words = [...button.childNodes].find((node) => node.nodeType === Node.TEXT_NODE);
  if (!words || words.textContent === text) return;
  const before = words.textContent;
  words.textContent = text;
  setTimeout(() => { words.textContent = before; }, 1500);
}

/** @param {string} text */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have no clipboard for pages that came by plain HTTP from another machine.
    const area = make('textarea', { class: 'hidden', 'aria-hidden': 'true' });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    return done;
  }
}

/** Let each button with class "copy" copy the text before it. */
export function makeCopyButtons() {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll('button.copy'))) {
    button.addEventListener('click', () => copy(button.previousElementSibling?.textContent ?? '', button));
  }
}
