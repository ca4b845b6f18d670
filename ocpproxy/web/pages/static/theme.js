// Dark or light. This runs before the page is drawn, so that it is not drawn in other colours first.
(() => {
  const root = document.documentElement;

  /** @param {string} theme */
  const use = (theme) => {
    root.dataset.theme = theme;
    const label = document.querySelector('#theme .label');
    if (label) label.textContent = theme === 'dark' ? 'Light' : 'Dark';
  };

  const kept = () => {
    try {
      return localStorage.getItem('ocpproxy-theme') === 'light' ? 'light' : 'dark';
    } catch {
      return 'dark'; // a browser that keeps nothing
    }
  };

  use(kept());
  addEventListener('DOMContentLoaded', () => {
    use(kept());
    document.getElementById('theme')?.addEventListener('click', () => {
      const theme = root.dataset.theme === 'dark' ? 'light' : 'dark';
      use(theme);
      try {
        localStorage.setItem('ocpproxy-theme', theme);
      } catch {
        // it is used for this page
      }
    });
  });
})();
