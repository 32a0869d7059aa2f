// Typesets the equations of a page in slices, those nearest to the screen first. A chapter has
// hundreds; at one go they would keep the page, and the widgets on it, from answering for a second.

const SLICE_MS = 10;
const MATH = ".math, .tex2jax_process, .mathjax_process, .output_area";

const distance = (element) => {
  const { top, bottom } = element.getBoundingClientRect();
  return Math.max(0, top - window.innerHeight, -bottom);
};

const idle = () =>
  new Promise((resolve) =>
    window.requestIdleCallback ? requestIdleCallback(resolve, { timeout: 200 }) : setTimeout(resolve),
  );

const startup = {
  async pageReady() {
    const waiting = [...document.querySelectorAll(MATH)]
      .filter((element) => !element.parentElement.closest(MATH))
      .map((element) => [distance(element), element])
      .sort(([a], [b]) => a - b);
    while (waiting.length) {
      const end = performance.now() + SLICE_MS;
      while (waiting.length && performance.now() < end) {
        const slice = waiting.splice(0, 2).map(([, element]) => element);
        await MathJax.typesetPromise(slice);
        slice.forEach(scrollWithKeys);
      }
      await idle();
    }
  },
};

// A page without equations loads no MathJax.
if (window.MathJax) {
  window.MathJax.startup = startup;
  // Paper shows all of the page.
  window.addEventListener("beforeprint", () => MathJax.typeset?.());
}
