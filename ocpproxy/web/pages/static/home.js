/** The list of datasets: search, and buttons that copy. @module */

import { element, makeCopyButtons } from './page.js';

makeCopyButtons();

for (const picture of /** @type {NodeListOf<HTMLImageElement>} */ (document.querySelectorAll('.thumbnail img'))) {
  const fail = () => {
    const place = picture.closest('.thumbnail');
    place?.classList.add('none');
    picture.remove();
    if (place) place.append('no picture');
  };
  if (picture.complete && !picture.naturalWidth) fail();
  else picture.addEventListener('error', fail);
}

const search = /** @type {HTMLInputElement | null} */ (document.getElementById('search'));
if (search) {
  const cards = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('.card')]);
  search.addEventListener('input', () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const card of cards) {
      const fits = words.every((word) => card.dataset.words?.includes(word));
      card.hidden = !fits;
      found += Number(fits);
    }
    element('found').textContent = words.length ? `${found} of ${cards.length}` : '';
  });
}
